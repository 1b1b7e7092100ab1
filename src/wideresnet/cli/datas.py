"""`wrn data cache list` and `wrn data cache clear`."""

from cyclopts import App

from wideresnet.cli.console import print_json, print_table, say

data = App(name="data", help="What is kept of data between runs: `wrn data cache list`.", help_format="plaintext")
cache = App(name="cache", help="Decoded pictures on disk, mapped by the next run; safe to remove.")
data.command(cache)

_KINDS = {"pixels": "", "survey": " (digests only)", "encoded": " (encoded, of a table)"}


@cache.command(name="list")
def list_(*, json: bool = False) -> None:
    """What is kept, newest first: data, size, pictures, bytes, date, key.

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    from wideresnet.data import cache as kept

    found = kept.entries()
    if json:
        print_json([entry.to_dict() for entry in found])
        return
    columns = {"data": "left", "size": "right", "pictures": "right", "bytes": "right", "made": "left", "key": "left"}
    rows = []
    for entry in found:
        what = entry.note or f"{entry.pictures:,}{_KINDS[entry.kind]}"
        made = f"{entry.made:%Y-%m-%d %H:%M}"
        rows.append([entry.data, str(entry.size or "–"), what, f"{entry.num_bytes:,}", made, entry.key])
    print_table("", columns, rows)
    say(f"{sum(entry.num_bytes for entry in found):,} bytes in {kept.folder()}")


@cache.command
def clear(*keys: str) -> None:
    """Remove what is kept. A run that reads it keeps it until it ends; encoded pictures that one reads are left.

    Parameters
    ----------
    keys
        Keys as `wrn data cache list` shows them, or their beginnings; all if none is given.
    """
    from wideresnet.data import cache as kept

    num_files, num_bytes = kept.clear(keys)
    print(f"removed: {num_files} file{'' if num_files == 1 else 's'}, {num_bytes:,} bytes")
    if left := [entry.key for entry in kept.entries() if not keys or entry.key.startswith(keys)]:
        say(f"left, for a run reads them: {', '.join(left)}")
