"""Errors of object stores as sentences, each with a command to type."""

from __future__ import annotations

import errno
import re
from pathlib import PurePath
from urllib.parse import urlsplit

from robharness.errors import for_shell
from robharness.locations import ObjectPath, s3_endpoint
from robharness.store.files import RemoteError
from robharness.text import printable

NO_BUCKET = "NoSuchBucket"
"""The code of an answer of S3 if the bucket is absent; `obstore` raises FileNotFoundError, as for an absent object."""
_PROGRAMS = {"s3": "aws s3", "gs": "gcloud storage", "memory": "memory"}
_ENVIRONMENT = {"s3": "AWS", "gs": "GOOGLE", "memory": ""}
_CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "export AWS_ACCESS_KEY_ID=KEY AWS_SECRET_ACCESS_KEY=SECRET"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "export GOOGLE_APPLICATION_CREDENTIALS=key.json"),
}
_NO_CREDENTIALS = re.compile(r"latest/(api/token|meta-data)|metadata\.google|Missing (AccessKeyId|SecretAccessKey)")
_REFUSED = re.compile(
    r"\b(401|403) |InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|Unauthenticated|PermissionDenied"
)
_REGION = re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|Missing region|IllegalLocationConstraint|\b301 ")
_STATUS = re.compile(r"status code: (\d+ [A-Za-z ]+)")
_NO_ANSWER = re.compile(r"HTTP error|error sending request|timed out")


def is_loopback() -> bool:
    """Return whether the server of S3 is on this machine, so that it needs no encryption."""
    return re.fullmatch(r"localhost|127\.[0-9.]+|::1", urlsplit(s3_endpoint()).hostname or "") is not None


def remote_error(error: Exception, path: PurePath) -> RemoteError:
    """Return the error that says why a request failed, and what to type.

    path: of the object that was requested.
    """
    assert isinstance(path, ObjectPath)
    text, scheme, bucket = str(error), path.scheme, path.bucket
    look = f"env | grep -o '^{_ENVIRONMENT[scheme]}_[A-Z_]*'"
    server = s3_endpoint() if scheme == "s3" else ""
    if NO_BUCKET in text:
        make = f"aws s3 mb {for_shell(bucket)}" + (f" --endpoint-url {for_shell(server)}" if server else "")
        return RemoteError(errno.ENOENT, f"there is no bucket {printable(bucket)}", make if scheme == "s3" else look)
    if _NO_CREDENTIALS.search(text):
        names, command = _CREDENTIALS[scheme]
        return RemoteError(errno.EACCES, f"no credentials are set ({names})", command)
    if "InvalidAccessKeyId" not in text and _REGION.search(text):
        return RemoteError(errno.EACCES, f"{printable(bucket)} is in another region", "export AWS_REGION=REGION")
    if _REFUSED.search(text):
        return RemoteError(errno.EACCES, f"the credentials have no right to {printable(path)}", look)
    if "BadScheme" in text:
        reason = f"{server} has no encryption (https)"
        return RemoteError(errno.EPROTONOSUPPORT, reason, "export AWS_ALLOW_HTTP=true")
    shown, ask = (server, f"curl -I {for_shell(server)}") if server else (f"the server of {bucket}", look)
    if status := _STATUS.search(text):
        return RemoteError(errno.EREMOTEIO, f"{printable(shown)} answers '{status[1]}'", ask)
    if _NO_ANSWER.search(text):
        return RemoteError(errno.EHOSTUNREACH, f"{printable(shown)} does not answer", ask)
    return RemoteError(errno.EREMOTEIO, printable(text.partition("\n")[0], 300), look)


def show_command(place: PurePath) -> str:
    """Return the command that shows the objects at a place."""
    assert isinstance(place, ObjectPath)
    return f"{_PROGRAMS[place.scheme]} ls --recursive {for_shell(f'{place}/')}"


def remove_command(place: PurePath) -> str:
    """Return the command that removes all objects at a place."""
    assert isinstance(place, ObjectPath)
    return f"{_PROGRAMS[place.scheme]} rm --recursive {for_shell(place)}"
