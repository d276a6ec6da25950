"""Repositories of the Hugging Face hub: downloaded into its cache, and written to.

Addresses, login, cache and resumed transfers are those of huggingface_hub: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, snapshot_download
from huggingface_hub import errors as reasons
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from featherbone.errors import FeatherboneError, HubError
from featherbone.files import NO_ROOM
from featherbone.progress import console

PREFIX = "hf-hub:"
"""Beginning of the name of a repository, as in timm: `hf-hub:user/name`, or `hf-hub:user/name@revision`."""
LOGIN = "log in with: hf auth login, or set HF_TOKEN"
SHA256 = re.compile("[0-9a-f]{64}")


def is_repository(name: Path) -> bool:
    """Whether `name` is that of a repository, not of a file or folder."""
    return name.as_posix().startswith(PREFIX)


def download(name: Path, files: Sequence[str]) -> Path:
    """The folder in the hub's cache that holds those of `files` that the repository has, weights among them.

    What the cache has is not downloaded again, and is used without a network. Raises `HubError`.
    """
    repository, _, revision = name.as_posix().removeprefix(PREFIX).partition("@")
    with _explained(repository):
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(files)))
    found = list(folder.iterdir()) if folder.is_dir() else []
    if not any(file.suffix == ".safetensors" for file in found):
        raise HubError(
            f"{repository} has no {' or '.join(files)}; give a repository that featherbone push wrote, or a classifier "
            "in timm's format with weights in safetensors: pickled ones are not loaded"
        )
    for file in found:
        _check(file, repository)
    return folder


def upload(repository: str, files: Sequence[Path], private: bool, message: str) -> str:
    """Write files to a repository in one commit, creating it where it does not exist; its address. Raises `HubError`.

    `private` applies to a new repository.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise HubError(f"{repository!r} is not the name of a repository; give user/name or organisation/name")
    if get_token() is None:
        raise HubError(f"writing to {repository} needs a token; {LOGIN}")
    api = HfApi(library_name="featherbone")
    with _explained(repository, "write"):
        address = api.create_repo(repository, private=private, exist_ok=True)
        parts = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
        api.create_commit(repository, parts, commit_message=message)
    return str(address)


def _check(file: Path, repository: str) -> None:
    """Remove a file from the cache, and raise `HubError`, if it does not have the SHA-256 that the hub states.

    huggingface_hub checks the size only. In its cache, the name of a large file's content is its SHA-256.
    """
    content = file.readlink() if file.is_symlink() else file
    if not SHA256.fullmatch(content.name):
        return
    with open(file, "rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() == content.name:
            return
    (file.parent / content).unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    raise HubError(f"{repository}: {file.name} arrived damaged, with another SHA-256 than the hub states; try again")


@contextmanager
def _explained(repository: str, action: str = "read") -> Iterator[None]:
    """Turn whatever the hub and the network lead to into a `HubError` that states what to do.

    Progress bars are off where standard error is not a terminal.
    """
    place = f"{repository} on {constants.ENDPOINT}"
    quiet = not console.is_terminal and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    except reasons.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repository}"
        raise HubError(f"{place} is gated: accept its terms at {page}, then {LOGIN}") from None
    except reasons.RevisionNotFoundError:
        raise HubError(f"{place} has no such revision; give a branch, tag or commit after @, or omit it") from None
    except reasons.HFValidationError as error:
        raise HubError(f"{repository!r} is not the name of a repository ({error}); give user/name") from None
    except reasons.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = {
            401: f"the token is missing or not valid, or the name is wrong; check it, or {LOGIN}",
            403: f"the token may not {action} it; create one that may at {constants.ENDPOINT}/settings/tokens",
            404: f"there is none, or it is private; check the name, or {LOGIN}",
        }.get(status, "try again later")
        stated = f" ({error.server_message})" if error.server_message else ""
        raise HubError(f"cannot {action} {place}, status {status}{stated}: {remedy}") from None
    except FeatherboneError:
        raise
    except Exception as error:  # of the network, in classes that vary with the version of huggingface_hub
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise HubError(
            f"cannot {action} {place} ({type(error.__cause__ or error).__name__}: {reason}); check the network and "
            "HF_ENDPOINT, then try again: complete files are kept"
        ) from None
    finally:
        if quiet:
            enable_progress_bars()
