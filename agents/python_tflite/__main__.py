"""The on-device agent of edge-harness: `python3 <digest>.zip` reads and writes JSON lines.

The same zip is also the child process of each launch (`<digest>.zip child ...`) and of `hello`
(`<digest>.zip probe ...`), so each role imports only the modules that it needs. docs/agent-protocol.md
describes the protocol verb by verb.
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
