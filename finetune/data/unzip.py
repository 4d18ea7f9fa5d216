"""Unpack untrusted zip files."""

import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from finetune.errors import UserError

MAX_FILES = 200_000
MAX_RATIO = 100  # unpacked to packed; photos hardly shrink, label files about ten times
FREE_BYTES = 100_000_000  # may be unpacked whatever the ratio


def unpack(archive: Path, folder: Path, *, max_bytes: int | None = None) -> None:
    """Unpack a zip: no path out of ``folder``, no links, no more than it may hold.

    Args:
        max_bytes: the most that it may unpack to; by default ``MAX_RATIO`` times its size.

    Raises:
        UserError: it is damaged, not to be trusted, or does not fit on the disk.
    """
    again = "make or fetch the zip again"
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            total = sum(member.file_size for member in members)
            limit = max_bytes or max(archive.stat().st_size * MAX_RATIO, FREE_BYTES)
            if len(members) > MAX_FILES or total > limit:
                raise UserError(
                    f"{archive} unpacks to {len(members):,} files of {total:,} bytes, more than the {limit:,} bytes "
                    f"allowed for it: {again}"
                )
            if total > shutil.disk_usage(folder).free:
                raise UserError(
                    f"{archive} unpacks to {total:,} bytes, more than is free in {folder}: free some"
                )
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                leads_out = path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1])
                if (
                    leads_out
                    or not path.parts
                    or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG)
                ):
                    raise UserError(f"{archive} holds {member.filename!r}, an unsafe path or a link: {again}")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)  # at most file_size bytes; the CRC is checked
    except (
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        lzma.LZMAError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{archive} is not a whole zip file ({error}): {again}") from None
    except OSError as error:
        raise UserError(f"cannot unpack {archive} ({error.strerror or error}): free some space") from None
