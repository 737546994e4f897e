"""The on-device agent of edge-harness: `python3 <digest>.zip` reads and writes JSON lines.

The same zip is also the child process of each launch (`<digest>.zip child ...`) and of `hello`
(`<digest>.zip probe ...`), so each role imports only the modules that it needs. docs/agent-protocol.md
describes the protocol verb by verb.
"""

import os
import sys


def _forget_current_folder() -> None:
    """Drop an empty or relative entry of PYTHONPATH, so that no json.py of that folder is imported."""
    named = os.environ.get("PYTHONPATH", "/").split(os.pathsep)
    current = [os.path.abspath(one) for one in named if not os.path.isabs(one)]
    sys.path[1:] = [one for one in sys.path[1:] if one and os.path.abspath(one) not in current]


def _main() -> int:
    _forget_current_folder()
    role = sys.argv[1] if len(sys.argv) > 1 else "agent"
    if role == "child":
        import child

        return child.main(sys.argv[2:])
    if role == "probe":
        import runtimes

        return runtimes.probe(sys.argv[2:])
    import agent

    return agent.main()


if __name__ == "__main__":
    sys.exit(_main())
