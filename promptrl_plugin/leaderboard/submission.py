"""The submission behind an entry: one zip file with all that its figures and hashes are recomputed from.

```
manifest.json            format, version, the entry's id, SHA-256 of every other file
samples/s<seed>.jsonl    what was submitted, in EvalPlus's format (`evalplus.evaluate --samples`)
results/s<seed>.json     verdicts on it, in EvalPlus's format
spending/s<seed>.jsonl   generations and tokens by task
policy/s<seed>/          policy bundle of a strategy that was trained
```

A submission comes from a stranger: names are held against this table, sizes are limited, programs run in the judge
only, and a bundle is never a pickle.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptrl_plugin.agent.bundle import MANIFEST, TENSORS
from promptrl_plugin.errors import EntryError
from promptrl_plugin.leaderboard.entry import Problem
from promptrl_plugin.records import content_hash
from promptrl_plugin.storage.runs import write_atomic

__all__ = [
    "hashes",
    "manifest_problems",
    "policy_folder",
    "read_submission",
    "results_name",
    "samples_name",
    "spending_name",
    "submission_path",
    "write_submission",
]

Files = Mapping[str, bytes]
"""Files of a submission by name."""

_INDEX = "manifest.json"
_FORMAT = {"format": "promptrl-submission", "version": 1}
_NAMES = re.compile(
    r"samples/s\d+\.jsonl|results/s\d+\.json|spending/s\d+\.jsonl|policy/s\d+/"
    rf"({re.escape(MANIFEST)}|{re.escape(TENSORS)})"
)
_LARGEST = 256 * 1024**2  #: bytes of all files, unpacked
_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows: equal files make an equal zip


def submission_path(entry: Path) -> Path:
    """The submission of the entry in this file: ``../submissions/<id>.zip``."""
    return entry.parent.parent / "submissions" / f"{entry.stem}.zip"


def samples_name(seed: int) -> str:
    return f"samples/s{seed}.jsonl"


def results_name(seed: int) -> str:
    return f"results/s{seed}.json"


def spending_name(seed: int) -> str:
    return f"spending/s{seed}.jsonl"


def policy_folder(seed: int | str) -> str:
    """Folder of the policy bundle; ``{seed}`` for `seed` gives what `promptrl compare --policy` takes."""
    return f"policy/s{seed}"


def hashes(files: Files) -> dict[str, str]:
    """``hashes`` of the entry."""
    digests = _digests(files)
    samples = {name: digest for name, digest in digests.items() if name.startswith("samples/")}
    return {"samples": content_hash(samples), "bundle": content_hash(digests)}


def write_submission(path: Path, entry: str, files: Files) -> None:
    """Write the zip file of the entry with this id, whole or not at all; equal files give equal bytes."""
    index = {**_FORMAT, "entry": entry, "files": _digests(files)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
            _INDEX: (json.dumps(index, indent=1) + "\n").encode(),
            **dict(sorted(files.items())),
        }.items():
            member = zipfile.ZipInfo(name, _DAY)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
    write_atomic(path, packed.getvalue())


def read_submission(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and files of a submission.

    Raises:
        EntryError: It is missing, damaged, too large, or holds a file that a submission does not have.
    """
    remedy = "make it again with `promptrl leaderboard add`"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if strange := [m.filename for m in members if m.filename != _INDEX and not _NAMES.fullmatch(m.filename)]:
                raise EntryError(f"{path} holds {strange[0]!r}, which no submission has; {remedy}")
            if sum(m.file_size for m in members) > _LARGEST:
                raise EntryError(f"{path} is of more than {_LARGEST // 1024**2} MiB unpacked; {remedy}")
            files = {m.filename: archive.read(m) for m in members}
        index = json.loads(files.pop(_INDEX))
        known = {key: index[key] for key in _FORMAT}
    except OSError as e:
        raise EntryError(f"cannot read {path}: {e.strerror}; put the entry's submission there") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, TypeError, ValueError):
        raise EntryError(f"{path} is no submission, or is damaged; {remedy}") from None
    if known != _FORMAT:
        raise EntryError(f"{path} is of another format ({known}); {remedy}")
    return index, files


def manifest_problems(entry: str, index: Mapping[str, Any], files: Files) -> list[Problem]:
    """Where the files are not those that the manifest lists, or it is another entry's."""
    problems = []
    if index.get("entry") != entry:
        problems.append(Problem("id", f"the submission is of entry {index.get('entry')!r}"))
    listed, found = index.get("files"), _digests(files)
    if not isinstance(listed, dict):
        return [*problems, Problem(_INDEX, "it lists no files")]
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not listed" if name not in listed else "was changed"
            problems.append(Problem(name, f"the file {what} (SHA-256 of {_INDEX})"))
    return problems


def _digests(files: Files) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
