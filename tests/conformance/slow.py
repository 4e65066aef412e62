"""Slow clients by slowhttptest, more of each kind than the relay takes at a time, while a good sender posts on new
connections: none fails.

`--long` has 2,000 of each kind, holds each siege for a minute, and judges the good one's p99: under 250 ms. Without, it is
printed alone: it is of this machine.
"""
import subprocess
import sys
import time

from relay import PATH, running

LONG = "--long" in sys.argv
# Past the default of `listen.limits.connections`, 1,024.
CONNECTIONS = 2000 if LONG else 1100
KINDS = {
    "slow heads": ["-H", "-i", "1", "-x", "24"],
    "slow bodies": ["-B", "-i", "1", "-x", "10", "-s", "8192"],
    "slow readers": ["-X", "-k", "10", "-n", "1", "-z", "8", "-w", "10", "-y", "20"],
}
GOOD_LEAST = 50
PATIENCE = 240
HOLD = 60 if LONG else 0
P99_MAX_MS = 250


def besiege(relay, kind, flags):
    url = f"https://localhost:{relay.port}{PATH}"
    command = ["slowhttptest", *flags, "-c", str(CONNECTIONS), "-r", "1000", "-l", "600", "-u", url]
    opened = relay.metric("suki_relay_connections_total")
    start = lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    attack = start()
    begun, took, count = time.monotonic(), [], 0
    try:
        while len(took) < GOOD_LEAST or count < CONNECTIONS or time.monotonic() - begun < HOLD:
            body = b'{"status":"success","session_id":"%s %d"}' % (kind.encode(), len(took))
            status, seconds = relay.post(body)
            assert status == 200, f"{kind}: a good one was answered {status}"
            took.append(seconds)
            if attack.poll() is not None:
                # It ends when the relay has cut all of its connections.
                attack = start()
            if len(took) % 10 == 0:
                count = relay.metric("suki_relay_connections_total") - opened - len(took)
            assert time.monotonic() - begun < PATIENCE, f"{kind}: {count} connections, {len(took)} good ones"
            time.sleep(0.01)
    finally:
        attack.kill()
        attack.wait()
    took.sort()
    p99 = took[len(took) * 99 // 100] * 1000
    print(f"slowhttptest, {kind}: {count:.0f} connections; {len(took)} good ones, none failed, p99 {p99:.0f} ms")
    assert not LONG or p99 < P99_MAX_MS, f"{kind}: a good one waits too long"


with running() as relay:
    for kind, flags in KINDS.items():
        besiege(relay, kind, flags)
