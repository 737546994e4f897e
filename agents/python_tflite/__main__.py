"""The on-device agent of edge-harness: `python3 <digest>.zip` speaks JSON lines on stdin and stdout.

The same zip is also each launch's child process (`<digest>.zip child ...`) and the one that
imports the runtime for `hello` (`<digest>.zip probe ...`), so only what a role needs is imported.
docs/agent-protocol.md has the protocol verb by verb.
"""

import sys


def _main() -> int:
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
