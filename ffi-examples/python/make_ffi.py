"""Writes libslim/_ffi.py and errors.py from include/slim.h.  Usage: make_ffi.py [--check]

The header is generated itself, so its forms are few: enums, structs, one function pointer, and
one function per SLIM_API. A form that is not known ends this with an error.
"""
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
HEADER = HERE / "../../include/slim.h"
ERRORS = '''"""The errors of slim.h as exceptions. Written by make_ffi.py; do not edit."""

import builtins


class SlimError(Exception):
    """A call has failed: `status` is the number that it returned, str() says what happened."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
'''
PLAIN = {
    "void": "None",
    "int32_t": "c.c_int32",
    "uint16_t": "c.c_uint16",
    "uint32_t": "c.c_uint32",
    "uint64_t": "c.c_uint64",
    "int64_t": "c.c_int64",
    "size_t": "c.c_size_t",
    "slim_status": "c.c_int32",
    "const char *": "c.c_char_p",
    "char *": "c.c_char_p",
    "const void *": "c.c_void_p",
    "void *": "c.c_void_p",
}


def type_of(text, structs, callbacks, handles):
    """The ctypes expression for a C type."""
    text = " ".join(text.replace("*", " * ").split())
    if text in PLAIN:
        return PLAIN[text]
    if text in callbacks:
        return text
    base = text.replace("const ", "").replace("*", "").strip()
    stars = text.count("*")
    if base in structs and stars == 1:
        return f"c.POINTER({base})"
    if base in handles and stars in (1, 2):
        return "c.c_void_p" if stars == 1 else "c.POINTER(c.c_void_p)"
    if base in PLAIN and stars == 1:
        return f"c.POINTER({PLAIN[base]})"
    raise SystemExit(f"make_ffi.py does not know the type {text!r}")


def declarator(text):
    """Splits `const char *name` into the type and the name."""
    match = re.fullmatch(r"(.*?)(\w+)", text.strip(), re.S)
    return match[1], match[2]


def generate_errors(header):
    """The text of errors.py: SLIM_ERR_NO_ROUTE becomes NoRouteError."""
    out, table = ERRORS, {}
    for said, name, value in re.findall(r"((?: +// .*\n)+) +SLIM_ERR_(\w+) = (-\d+),", header):
        said = " ".join(line.strip(" /") for line in said.splitlines())
        error = "".join(word.capitalize() for word in name.split("_")) + "Error"
        bases = "SlimError, builtins.TimeoutError" if name == "TIMEOUT" else "SlimError"
        out += f'\n\nclass {error}({bases}):\n    """{said}"""\n'
        table[value] = error
    entries = [f"    {value}: {error},\n" for value, error in table.items()]
    return out + "\n\n# Of each status.\nERRORS = {\n" + "".join(entries) + "}\n"


def generate_ffi(header):
    """The text of _ffi.py."""
    version = re.search(r'#define SLIM_VERSION "(\d+)\.(\d+)\.(\d+)"', header)
    text = re.sub(r"/\*.*?\*/|//[^\n]*|^#.*?(?<!\\)$", "", header, flags=re.S | re.M)
    text = re.sub(r'extern "C" \{|^\}\s*$', "", text, flags=re.M)
    handles = set(re.findall(r"typedef struct (\w+) \1;", text))
    structs = re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.S)
    names = {name for _, name in structs}
    callbacks = re.findall(r"typedef (\w+) \(\*(\w+)\)\((.*?)\);", text, re.S)
    known = names, {name for _, name, _ in callbacks}, handles
    out = ['"""What slim.h declares, for ctypes. Written by make_ffi.py; do not edit."""', ""]
    out += ["import ctypes as c", "", f"VERSION = ({version[1]}, {version[2]}, {version[3]})", ""]
    for body, _ in re.findall(r"typedef enum \{(.*?)\} (\w+);", text, re.S):
        out += [f"{name} = {value}" for name, value in re.findall(r"(\w+) = (-?\d+)", body)] + [""]
    for result, name, arguments in callbacks:
        types = [type_of(declarator(a)[0], *known) for a in arguments.split(",")]
        out += [f"{name} = c.CFUNCTYPE({', '.join([PLAIN[result]] + types)})", ""]
    for body, name in structs:
        out += ["", f"class {name}(c.Structure):", "    _fields_ = ["]
        for field in filter(None, map(str.strip, body.split(";"))):
            kind, field = declarator(field)
            out.append(f'        ("{field}", {type_of(kind, *known)}),')
        out += ["    ]", ""]
    out += ["", "# Name: (result, arguments).", "FUNCTIONS = {"]
    pattern = r"SLIM_API\s+(?:SLIM_CHECKED\s+)?([\w\s*]*?)(\w+)\(([^)]*)\);"
    functions = re.findall(pattern, text)
    if len(functions) != text.count("SLIM_API"):
        raise SystemExit("make_ffi.py does not know the form of every function")
    for result, name, arguments in functions:
        arguments = [] if arguments.strip() == "void" else arguments.split(",")
        types = [type_of(declarator(a)[0], *known) for a in arguments]
        result = type_of(result, *known)
        out.append(f'    "{name}": ({result}, [{", ".join(types)}]),')
    return "\n".join(out + ["}", ""])


if __name__ == "__main__":
    header = HEADER.read_text()
    for name, text in ("_ffi.py", generate_ffi(header)), ("errors.py", generate_errors(header)):
        output = HERE / "libslim" / name
        if "--check" not in sys.argv:
            output.write_text(text)
        elif output.read_text() != text:
            raise SystemExit(f"libslim/{name} is out of date: run make_ffi.py")
