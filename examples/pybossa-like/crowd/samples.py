"""Some projects to begin with."""

from __future__ import annotations

from sqlalchemy import select

from crowd.database import Base, Project, Session, Task

__all__ = ["SAMPLES", "fill"]

SAMPLES = {
    "galaxies": ("Shapes of galaxies", "Is it a spiral?"),
    "ships": ("Logs of ships", "Is the wind named?"),
    "birds": ("Songs of birds", "Is it a blackbird?"),
    "letters": ("Old letters", "Is it signed?"),
    "maps": ("Flooded fields", "Is this field under water?"),
}


def fill(tasks: int = 200) -> None:
    """Make the tables, and some projects where there are none."""
    Base.metadata.create_all(Session.get_bind())
    if Session.scalar(select(Project.id).limit(1)) is None:
        for short_name, (title, question) in SAMPLES.items():
            project = Project(short_name=short_name, title=title, description=f"{question} Help us to find out.")
            Session.add(project)
            Session.flush()
            Session.add_all(Task(project_id=project.id, question=f"{question} ({n})") for n in range(tasks))
    Session.commit()
