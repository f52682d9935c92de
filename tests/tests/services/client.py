"""A client that loses connections: sends a charge, goes away at some point, and tries again with the same
key until it has an answer. Prints one JSON line for each key.

Arguments: host, port, path, keys, seed. Only the standard library.
"""

import base64
import concurrent.futures
import http.client
import json
import random
import sys
import time

HOST, PORT, PATH, KEYS, SEED = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]


def attempt(key, body, leave_after):
    connection = http.client.HTTPConnection(HOST, PORT, timeout=20)
    try:
        connection.request("POST", PATH, body, {"Idempotency-Key": key, "Content-Type": "application/octet-stream"})
        if leave_after is not None:
            time.sleep(leave_after)
            return None
        response = connection.getresponse()
        return response.status, response.getheader("Idempotent-Replayed"), response.read()
    finally:
        connection.close()


def charge(number):
    dice = random.Random(f"{SEED}-{number}")
    key, body = f"py-{SEED}-{number}", dice.randbytes(dice.randrange(1, 50_000))
    for _ in range(dice.randrange(1, 4)):
        attempt(key, body, dice.random() * 0.05)
    for _ in range(200):
        status, replayed, answer = attempt(key, body, None)
        if status != 409:
            break
        time.sleep(0.1)
    again = attempt(key, body, None)
    return {
        "key": key,
        "sent": base64.b64encode(body).decode(),
        "status": status,
        "answer": base64.b64encode(answer).decode(),
        "again": again == (status, "true", answer),
    }


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for result in pool.map(charge, range(KEYS)):
        print(json.dumps(result), flush=True)
