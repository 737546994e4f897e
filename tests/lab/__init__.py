"""The test lab: devices that look like real machines over the network, without hardware.

with Lab(folder) as lab:
    host = lab.x86_host("x86-1")        # own network, processes, name and writable layer
    board = lab.arm64_board("pi4")      # Debian arm64, every program aarch64, XNNPACK used
    old = lab.armv7_board("bbb")        # Debian armhf, tflite-runtime and Debian's numpy
    machine = lab.machine("vm")         # own kernel, boots, loses its power
    host.entry                          # its entry of a farm.toml
    host.link_down()                    # and other faults (device.py)

docs/lab.md describes how each is made.
"""
