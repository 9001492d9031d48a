"""Runs the untrusted code; its text is handed to the interpreter inside the sandbox with ``-c``.

Standard input carries a token and the code. Only after the last statement of the code is the token
written to the report pipe, whose number is argv[1]: so ``os._exit(0)``, ``sys.exit(0)`` and a
printed "all tests passed" do not look like a program that ran to its end.
"""

import os
import sys

TOKEN_BYTES = 16
END, MEMORY = b"end", b"memory"  # what follows the token in the report


def main() -> None:
    report = int(sys.argv[1])
    sent = sys.stdin.buffer.read()
    token, code = sent[:TOKEN_BYTES], sent[TOKEN_BYTES:].decode("utf-8", "surrogatepass")
    sys.argv = ["program"]
    module = type(sys)("__main__")
    sys.modules["__main__"] = module  # pickle, dataclasses and typing look names up there
    try:
        exec(compile(code, "program", "exec"), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, MemoryError):
            os.write(report, token + MEMORY)
        trace = error.__traceback__ and error.__traceback__.tb_next  # without this frame
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        raise SystemExit(1) from None
    os.write(report, token + END)


if __name__ == "__main__":
    main()
