"""Makes the wheel; pip calls it: pip install ffi-examples/python

Nothing but Python is needed, and no network. LIBSLIM=PATH puts that library into the wheel, which
is then for one platform; without it the wheel is for all, and the system's loader finds the library.
"""

import base64
import hashlib
import os
import pathlib
import re
import sysconfig
import zipfile

HERE = pathlib.Path(__file__).parent
METADATA = """\
Metadata-Version: 2.1
Name: libslim
Version: {version}
Summary: Messaging over SLIM, without an async runtime
License: Apache-2.0
Requires-Python: >=3.9
"""
WHEEL = """\
Wheel-Version: 1.0
Generator: libslim
Root-Is-Purelib: {pure}
Tag: {tag}
"""


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Called by pip; gives the name of the file."""
    library = os.environ.get("LIBSLIM")
    version = re.search(r"VERSION = \((.*)\)", (HERE / "libslim/_ffi.py").read_text())[1]
    version = version.replace(", ", ".")
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform()) if library else "any"
    tag, info = f"py3-none-{platform}", f"libslim-{version}.dist-info"
    files = {
        f"libslim/{path.name}": path.read_bytes()
        for path in sorted((HERE / "libslim").iterdir())
        if path.suffix in (".py", ".typed")
    }
    if library:
        files["libslim/libslim.so.0"] = pathlib.Path(library).read_bytes()
    for name in ("LICENSE", "THIRD-PARTY"):
        files[f"{info}/{name}"] = (HERE / "../.." / name).read_bytes()
    files[f"{info}/METADATA"] = METADATA.format(version=version).encode()
    files[f"{info}/WHEEL"] = WHEEL.format(pure=str(not library).lower(), tag=tag).encode()
    record = "".join(f"{name},{digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    wheel = f"libslim-{version}-{tag}.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return wheel


def digest(data):
    """As RECORD has it."""
    hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={hashed.decode()}"
