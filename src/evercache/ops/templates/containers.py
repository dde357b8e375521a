"""Docker Compose and Kubernetes, one file for each host."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["TLS_FILES", "Container", "compose_text", "pod_text", "policies_text"]


#: The keys of a secret of certificates, which cert-manager uses too; and the names of the files.
TLS_FILES: Final = ("ca.crt", "tls.crt", "tls.key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One server in a container. Memory in bytes."""

    name: str
    script: str
    port: int
    memory: int


def compose_text(
    *,
    project: str,
    image: str,
    uid: int,
    config: str,
    data: str,
    stop_seconds: int,
    probe: Sequence[str],
    containers: Sequence[Container],
) -> str:
    """On the network of the host: addresses are those of the description, without a translation between."""
    text = f"""\
# The servers use the network of the host: Sentinel and replicas announce their addresses, and a translated
# address would be one that nobody else reaches.
name: {project}
services:
"""
    for one in containers:
        check = json.dumps(["CMD", *probe, "-p", str(one.port), "ping"])
        text += f"""\
  {one.name}:
    image: {json.dumps(image)}
    entrypoint: ["/bin/sh", {json.dumps(one.script)}]
    user: "{uid}:{uid}"
    network_mode: host
    # The script waits where coming back at once would do harm.
    restart: unless-stopped
    init: true
    stop_grace_period: {stop_seconds}s
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    mem_limit: {one.memory >> 20}m
    ulimits:
      nofile: 65536
    volumes:
      - {json.dumps(f"{config}:/etc/evercache:ro")}
      - {json.dumps(f"{data}/{one.name}:/data/{one.name}")}
    tmpfs: ["/tmp"]
    healthcheck:
      # It answers, if only that it wants a password.
      test: {check}
      interval: 10s
      timeout: 2s
      retries: 3
      start_period: 60s
    logging:
      driver: json-file
      options: {{max-size: 10m, max-file: "3"}}
"""
    return text


def pod_text(
    *,
    service: str,
    host: str,
    namespace: str,
    image: str,
    uid: int,
    storage: str,
    storage_class: str,
    stop_seconds: int,
    files: Mapping[str, str],
    tls: bool,
    containers: Sequence[Container],
) -> str:
    """A service, which keeps its address when the pod moves, a secret with the files, and the pod itself."""
    labels = (
        f"app.kubernetes.io/name: evercache\n    app.kubernetes.io/instance: {service}\n    evercache/host: {host}"
    )
    ports = "".join(f"    - name: {one.name}\n      port: {one.port}\n" for one in containers)
    stored = "".join(f"  {name}: |\n{textwrap.indent(text, '    ')}" for name, text in files.items())
    text = f"""\
apiVersion: v1
kind: Service
metadata:
  name: {host}
  namespace: {namespace}
  labels:
    {labels}
spec:
  # Found also while the server is down: a sentinel that cannot resolve a name forgets nobody, but helps nobody.
  publishNotReadyAddresses: true
  selector:
    {labels}
  ports:
{ports}---
apiVersion: v1
kind: Secret
metadata:
  name: {host}-config
  namespace: {namespace}
  labels:
    {labels}
type: Opaque
stringData:
{stored}---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {host}
  namespace: {namespace}
  labels:
    {labels}
spec:
  serviceName: {host}
  replicas: 1
  selector:
    matchLabels:
      {labels.replace(chr(10), chr(10) + "  ")}
  template:
    metadata:
      labels:
        {labels.replace(chr(10), chr(10) + "    ")}
    spec:
      # Never two on one machine: its loss must not take the majority with it.
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels:
                  app.kubernetes.io/name: evercache
                  app.kubernetes.io/instance: {service}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {stop_seconds}
      securityContext:
        runAsNonRoot: true
        runAsUser: {uid}
        runAsGroup: {uid}
        fsGroup: {uid}
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      containers:
"""
    for one in containers:
        text += f"""\
        - name: {one.name}
          image: {json.dumps(image)}
          # The script waits where coming back at once would do harm.
          command: ["/bin/sh", {json.dumps(one.script)}]
          ports:
            - containerPort: {one.port}
          # A server that loads its data listens already, and must not be ended for it.
          readinessProbe:
            tcpSocket:
              port: {one.port}
            periodSeconds: 5
          resources:
            requests:
              cpu: 100m
              memory: {one.memory >> 20}Mi
            limits:
              memory: {one.memory >> 20}Mi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: config
              mountPath: /etc/evercache
              readOnly: true
            - name: data
              mountPath: /data
"""
    text += f"""\
      volumes:
        - name: config
          projected:
            defaultMode: 0440
            sources:
              - secret:
                  name: {host}-config
"""
    if tls:
        items = "".join(f"                    - {{key: {one}, path: tls/{one}}}\n" for one in TLS_FILES)
        text += f"              - secret:\n                  name: {host}-tls\n                  items:\n{items}"
    text += f"""\
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
{f"        storageClassName: {storage_class}{chr(10)}" if storage_class else ""}\
        resources:
          requests:
            storage: {storage}
"""
    return text


def policies_text(*, service: str, namespace: str, ports: Sequence[int]) -> str:
    """For all hosts together: one at a time may be taken away, and only clients may connect."""
    listed = "".join(f"        - port: {port}\n" for port in ports)
    return f"""\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {service}
  namespace: {namespace}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: evercache
      app.kubernetes.io/instance: {service}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {service}
  namespace: {namespace}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: evercache
      app.kubernetes.io/instance: {service}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              app.kubernetes.io/name: evercache
              app.kubernetes.io/instance: {service}
        # Pods of the application carry this label, in any namespace.
        - namespaceSelector: {{}}
          podSelector:
            matchLabels:
              evercache/client: {json.dumps(service)}
      ports:
{listed}"""
