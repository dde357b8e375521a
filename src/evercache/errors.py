"""Every error that evercache raises, in one place.

Two families. *Mistakes* (`ConfigurationError`, `CannotEncode`, `NotACounter`, ...) are raised
where they are made and say what to do. *Infrastructure* (`UnavailableError` and below) never
reaches the caller of a cached function unless `on_error="raise"`; each says in `maybe_run`
whether the command may have run on the server all the same.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "CannotEncode",
    "ConfigurationError",
    "ConnectionFailed",
    "CorruptEnvelope",
    "DeadlineExceeded",
    "DemoFailed",
    "DeploymentError",
    "DeploymentUnknown",
    "DescriptionError",
    "DiskFull",
    "DrillRefused",
    "EvercacheError",
    "FailoverRefused",
    "FilesChanged",
    "Loading",
    "MasterUnknown",
    "NoScript",
    "NotACounter",
    "NotWhole",
    "OutOfMemory",
    "PackageMissing",
    "PoolExhausted",
    "PortTaken",
    "ProtocolError",
    "ReadOnly",
    "ResourceExhausted",
    "SentinelsDisagree",
    "SentinelsUnreachable",
    "ServerChanged",
    "ServerError",
    "ServerMissing",
    "ServiceUnknown",
    "SyncInLoopError",
    "URLError",
    "UnavailableError",
    "ValueTooLarge",
    "WrongCache",
]


class EvercacheError(Exception):
    """Base of every error of this library."""


class ConfigurationError(EvercacheError, ValueError):
    """A setting that cannot work; the message names it and the mend."""


class URLError(ConfigurationError):
    """A URL that cannot be understood; the message names the part and the mend."""


class DescriptionError(ConfigurationError):
    """A description for `evercache render` that cannot be understood or cannot work; the message says why."""


class PackageMissing(ConfigurationError, ImportError):
    """A part needs a package that is not installed; the message has the command that does it."""


class DemoFailed(EvercacheError, RuntimeError):
    """The demo cannot go on; the message says why and what to do."""


class WrongCache(EvercacheError, ValueError):
    """A key or a cached function of one cache was given to another one; the message names both."""


class SyncInLoopError(EvercacheError, RuntimeError):
    """A blocking call inside a running event loop; the message names the asynchronous twin."""


class CannotEncode(EvercacheError, TypeError):
    """A value whose cached copy would not equal it, so it is not cached."""


class ValueTooLarge(CannotEncode):
    """An encoded value over `max_value_bytes`."""


class CorruptEnvelope(EvercacheError):
    """Bytes that are no envelope of this library, or a damaged one: treated as a miss."""


class NotACounter(EvercacheError, TypeError):
    """`incr` on a key that holds something else than a whole number below 2**53."""


class UnavailableError(EvercacheError):
    """The servers could not do what was asked.

    `maybe_run` is False only where the command certainly did not run.
    """

    def __init__(self, message: str = "", *, maybe_run: bool = False) -> None:
        super().__init__(message)
        self.maybe_run = maybe_run
        #: It was not tried again, since too many calls had been (the budget of retries).
        self.retry_refused = False


class ConnectionFailed(UnavailableError):
    """A connection could not be made, or broke."""


class ResourceExhausted(UnavailableError):
    """This process has no memory left for what was asked. The servers may be well."""


class PoolExhausted(UnavailableError):
    """All connections to one server were in use until the deadline."""


class ProtocolError(ConnectionFailed):
    """The peer sent something that is not RESP, or an answer of an unexpected shape."""


class DeadlineExceeded(UnavailableError):
    """No answer before the deadline of the call."""


class ServerChanged(UnavailableError):
    """The process behind an address is not the one that was verified (restart, other role)."""


class MasterUnknown(UnavailableError):
    """No master is known or reachable now."""


class SentinelsUnreachable(MasterUnknown):
    """No sentinel answered."""


class SentinelsDisagree(MasterUnknown):
    """Sentinels name different masters and none has a higher epoch."""


class ServiceUnknown(MasterUnknown):
    """The sentinels answer but do not monitor a master of this name."""


class ServerError(UnavailableError):
    """An error reply. `code` is its first word (`WRONGTYPE`, `NOPERM`, ...); the command did not run."""

    def __init__(self, message: str) -> None:
        super().__init__(message, maybe_run=False)
        self.code = message.split(" ", 1)[0]


class AuthenticationFailed(ServerError):
    """`WRONGPASS`, `NOAUTH` or `ERR invalid password`: the user name or the password is wrong."""


class AccessDenied(ServerError):
    """`NOPERM`: the ACL of the user does not allow the command or the key."""


class ReadOnly(ServerError):
    """`READONLY`: the server is a replica."""


class Loading(ServerError):
    """`LOADING`, `MASTERDOWN`, `BUSY` or `TRYAGAIN`: the server cannot answer yet."""


class OutOfMemory(ServerError):
    """`OOM`, `MISCONF` or `NOREPLICAS`: the server takes no writes now."""


class NoScript(ServerError):
    """`NOSCRIPT`: the script has not run; send it whole."""


class DeploymentError(EvercacheError, RuntimeError):
    """Servers on one's own machine could not be started, changed or found; the message says what to do."""


class DeploymentUnknown(DeploymentError):
    """No deployment, or no node in it, of this name."""


class ServerMissing(DeploymentError):
    """There is no server program, or no Supervisor, to run."""


class PortTaken(DeploymentError):
    """Another program listens on a port that a deployment remembered."""


class DiskFull(DeploymentError):
    """The disk has no room for the deployment's files."""


class NotWhole(DeploymentError):
    """A deployment was started, or failed over, but did not become whole in time."""


class FailoverRefused(DeploymentError):
    """A planned failover would do harm, or could not work now; nothing was changed. The message says why."""


class FilesChanged(DeploymentError):
    """Files to be rendered were changed since, by a person or by a server; nothing was written."""


class DrillRefused(DeploymentError):
    """A drill would do harm, or could measure nothing; nothing was changed. The message says why."""
