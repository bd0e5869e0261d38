"""The manifest of docs/scale-out.md is a RayCluster as KubeRay 1.7.0 defines it (ray.io/v1)."""

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml
from jsonschema import validate

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "scale-out.md"


def table(required: str = "", **members: Any) -> dict[str, Any]:
    """A map of these members and no others, as the definition has them; those `required` must be there."""
    return {
        "type": "object",
        "properties": members,
        "required": required.split(),
        "additionalProperties": False,
    }


def listed(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
WORDS = {"type": "object", "additionalProperties": TEXT}
AMOUNTS = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
CONTAINER = table(
    "name",
    name=TEXT,
    image=TEXT,
    env=listed(table("name", name=TEXT, value=TEXT)),
    envFrom=listed(table(secretRef=table(name=TEXT))),
    resources=table(requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts=listed(table("name mountPath", name=TEXT, mountPath=TEXT)),
)
VOLUME = table("name", name=TEXT, persistentVolumeClaim=table("claimName", claimName=TEXT))
TEMPLATE = table(spec=table("containers", containers=listed(CONTAINER), volumes=listed(VOLUME)))
RAY_CLUSTER = table(
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=table("name", name=TEXT),
    spec=table(
        "headGroupSpec",
        rayVersion=TEXT,
        headGroupSpec=table("template", rayStartParams=WORDS, template=TEMPLATE),
        workerGroupSpecs=listed(
            table(
                "groupName minReplicas maxReplicas template",
                groupName=TEXT,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=WORDS,
                template=TEMPLATE,
            )
        ),
    ),
)
"""What a RayCluster may and must hold, of what the manifest uses."""


def manifest() -> Any:
    (block,) = re.findall(r"    apiVersion: ray\.io/v1\n(?:    .*\n)+", DOCUMENT.read_text())
    return yaml.safe_load(textwrap.dedent(block))


def test_the_manifest_is_a_ray_cluster() -> None:
    """No member is misspelt or misplaced, none that is needed is missing, and texts are texts."""
    validate(manifest(), RAY_CLUSTER)


def test_the_manifest_names_the_ray_that_is_tested() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    assert pinned
    assert manifest()["spec"]["rayVersion"] == pinned[1]


def test_the_head_sends_nothing_and_the_senders_stay_as_they_are() -> None:
    """No worker is placed beside the command, whole CPUs are held, and no machine comes or goes in a run."""
    spec = manifest()["spec"]
    (senders,) = spec["workerGroupSpecs"]
    counts = {senders[name] for name in ("replicas", "minReplicas", "maxReplicas")}

    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert len(counts) == 1
    for group in (spec["headGroupSpec"], senders):
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"]["cpu"].isdecimal()
