"""What ``kubectl kustomize`` makes of a folder, as far as ours need it: resources, labels, images, namespace, patches.

A test compares it with the real one where that is installed, so that manifests can be checked where it is not.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

__all__ = ["load_all", "merged", "render"]

MERGE_KEYS = ("name", "mountPath", "containerPort", "key", "port")
"""Lists of mappings with one of these are merged item by item, as Kubernetes' strategic merge does."""

KNOWN = {"apiVersion", "kind", "resources", "labels", "images", "namespace", "patches"}
CLUSTER_WIDE = ("Namespace",)


def load_all(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return [d for d in YAML(typ="safe", pure=True).load_all(path.read_text()) if d is not None]


def render(folder: Path) -> list[Any]:
    """The objects that a folder with a kustomization.yaml stands for."""
    (k,) = load_all(folder / "kustomization.yaml")
    assert set(k) <= KNOWN, f"{folder}: {set(k) - KNOWN} is not understood here"
    objects: list[Any] = []
    for entry in k["resources"]:
        path = (folder / entry).resolve()
        objects += render(path) if path.is_dir() else load_all(path)
    for patch in k.get("patches", []):
        text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        objects = _patched(objects, YAML(typ="safe", pure=True).load(text), patch.get("target"))
    for each in objects:
        _label(each, k.get("labels", []))
        _tag(each, k.get("images", []))
        if "namespace" in k and each["kind"] not in CLUSTER_WIDE:
            each["metadata"]["namespace"] = k["namespace"]
    return objects


def _patched(objects: list[Any], patch: Any, target: Any) -> list[Any]:
    made, found = [], False
    for each in objects:
        wanted = target or {"kind": patch["kind"], "name": patch["metadata"]["name"]}
        if each["kind"] != wanted["kind"] or each["metadata"]["name"] != wanted["name"]:
            made.append(each)
            continue
        found = True
        if isinstance(patch, list):
            made.append(_json6902(each, patch))
        elif patch.get("$patch") != "delete":
            made.append(merged(each, patch))
    assert found, f"a patch is for nobody: {patch}"
    return made


def _json6902(each: Any, steps: list[Any]) -> Any:
    done = deepcopy(each)
    for step in steps:
        *way, last = step["path"].strip("/").split("/")
        at = done
        for word in way:
            at = at[word]
        assert step["op"] == "add" or last in at, f"there is no {step['path']} to {step['op']}"
        if step["op"] == "remove":
            del at[last]
        else:
            at[last] = step["value"]
    return done


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge: mappings by key, lists by what names their items, else the patch's."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {k: merged(base[k], v) if k in base else deepcopy(v) for k, v in patch.items()}
        return {**deepcopy(base), **both}
    if isinstance(base, list) and isinstance(patch, list):
        key = next((k for k in MERGE_KEYS if all(isinstance(x, dict) and k in x for x in [*base, *patch])), "")
        if key and base and patch:
            given = {x[key]: x for x in patch}
            old = [merged(x, given.pop(x[key])) if x[key] in given else deepcopy(x) for x in base]
            return [*deepcopy(list(given.values())), *old]
    return deepcopy(patch)


def _label(each: Any, labels: list[Any]) -> None:
    for entry in labels:
        for place in _label_places(each, entry.get("includeTemplates", False)):
            place.setdefault("labels", {}).update(entry["pairs"])


def _label_places(each: Any, templates: bool) -> Iterator[Any]:
    yield each["metadata"]
    spec = each.get("spec") or {}
    if templates and "template" in spec:
        yield spec["template"].setdefault("metadata", {})
    if templates:
        yield from (claim["metadata"] for claim in spec.get("volumeClaimTemplates", []))


def _tag(each: Any, images: list[Any]) -> None:
    text = json.dumps(each)
    pod = ((each.get("spec") or {}).get("template") or {}).get("spec")
    if pod is None or '"image"' not in text:
        return
    for container in pod["containers"]:
        for image in images:
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
