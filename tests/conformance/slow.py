"""Slow clients by slowhttptest, more of each kind than the relay takes at a time, while a good sender posts on new
connections: none fails. What the relay counts meanwhile tells that each siege was one of its kind.

`--long` has 2,000 of each kind, holds each siege for a minute, and judges the good one's p99: under 250 ms. Without, it is
printed alone: it is of this machine.
"""
import subprocess
import sys
import time

from relay import PATH, running, signature

LONG = "--long" in sys.argv
# The default of `listen.limits.connections`, and more than that.
PLACES = 1024
CONNECTIONS = 2000 if LONG else 1100
# A body is waited for only if the head has signature and timestamp; slowhttptest writes its `-f` into the head as it is.
SIGNED = "\r\n".join(["application/json", *(f"{name}: {value}" for name, value in signature(b"").items())])
# By kind: its flags, what it makes the relay count, and how often at least.
KINDS = {
    # They take all places, and make room for those that come later.
    "slow heads": (["-H", "-i", "1", "-x", "24"], 'connections_cut_total{reason="full"}', CONNECTIONS - PLACES),
    # Answered 408.
    "slow bodies": (
        ["-B", "-i", "1", "-x", "10", "-s", "8192", "-f", SIGNED],
        'requests_total{result="timeout",source="suki"}', PLACES // 10,
    ),
    # They ask much with each connection, and take none of the answers.
    "slow readers": (
        ["-X", "-k", "10", "-n", "1", "-z", "8", "-w", "10", "-y", "20"],
        'requests_total{result="method",source="suki"}', CONNECTIONS * 5,
    ),
}
GOOD_LEAST = 50
PATIENCE = 240
HOLD = 60 if LONG else 0
P99_MAX_MS = 250


def besiege(relay, kind, flags, told, told_least):
    url = f"https://localhost:{relay.port}{PATH}"
    command = ["slowhttptest", *flags, "-c", str(CONNECTIONS), "-r", "1000", "-l", "600", "-u", url]
    opened = relay.metric("suki_relay_connections_total")
    told = f"suki_relay_{told}"
    before = relay.metric(told)
    start = lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    attack = start()
    begun, took, count, times = time.monotonic(), [], 0, 0
    try:
        while (len(took) < GOOD_LEAST or count < CONNECTIONS or times < told_least
               or time.monotonic() - begun < HOLD):
            body = b'{"status":"success","session_id":"%s %d"}' % (kind.encode(), len(took))
            status, seconds = relay.post(body)
            assert status == 200, f"{kind}: a good one was answered {status}"
            took.append(seconds)
            if attack.poll() is not None:
                # It ends when the relay has cut all of its connections.
                attack = start()
            if len(took) % 10 == 0:
                count = relay.metric("suki_relay_connections_total") - opened - len(took)
                times = relay.metric(told) - before
            so_far = f"{kind}: {count:.0f} connections, {told} grew by {times:.0f}, {len(took)} good ones"
            assert time.monotonic() - begun < PATIENCE, so_far
            time.sleep(0.01)
    finally:
        attack.kill()
        attack.wait()
    took.sort()
    p99 = took[len(took) * 99 // 100] * 1000
    print(f"slowhttptest, {so_far}, none failed, p99 {p99:.0f} ms")
    assert not LONG or p99 < P99_MAX_MS, f"{kind}: a good one waits too long"


with running("body_timeout: 5s") as relay:
    for kind, siege in KINDS.items():
        besiege(relay, kind, *siege)
