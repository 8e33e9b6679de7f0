"""What the steps of the tests of the network do; copied into the code of their DAG."""

# ruff: noqa: PTH123, S310 -- steps as their authors write them

import asyncio
import os
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path


def fetch(url, cafile=None):
    context = ssl.create_default_context(cafile=cafile and _file(cafile)) if cafile else None
    try:
        return urllib.request.urlopen(url, timeout=60, context=context).read().decode()
    except urllib.error.URLError as error:
        return str(error.reason)


def _file(text):
    with open("/work/root.pem", "w") as file:
        file.write(text)
    return "/work/root.pem"


def curl(url, cafile=None):
    more = ["--cacert", _file(cafile)] if cafile else []
    done = subprocess.run(["/usr/bin/curl", "-sS", *more, url], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def say(host, port, text):
    with socket.create_connection((host, port), timeout=60) as made:
        made.sendall(text.encode())
        made.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: made.recv(65536), b"")).decode()


def listen(host, port):
    with socket.create_connection((host, port), timeout=60) as made:
        got = b"".join(iter(lambda: made.recv(65536), b"")).decode()
        made.sendall(b"heard " + got.encode())
        return got


def knock(host, port):
    try:
        with socket.create_connection((host, port), timeout=60) as made:
            return made.recv(100).decode()
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)


def datagram(host, port):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.sendto(b"?", (host, port))
    except OSError as error:
        return error.errno
    return "sent"


def look_up(host):
    try:
        return sorted({place[0] for *_, place in socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return error.errno


def abstract(name):
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(chr(0) + name)
    except OSError as error:
        return type(error).__name__
    return "connected"


def names():
    with open("/etc/hosts") as file:
        told = file.read()
    try:
        open("/etc/hosts", "a").close()
    except OSError as error:
        return [told, error.errno]
    return [told, "writable"]


def trusted(paths):
    return [path for path in paths if any(Path(path).glob("*"))]


def environment():
    return sorted(name for name in os.environ if "proxy" in name.lower())


def both_ways(host, port, size):
    data = bytes(range(256)) * (size // 256)
    made = socket.create_connection((host, port), timeout=60)

    def send():
        made.sendall(data)
        made.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    got, count = sha256(), 0
    while more := made.recv(1 << 16):
        got.update(more)
        count += len(more)
    sending.join()
    return [count, got.hexdigest()]


def beside(host, slow, quick):
    stuck = socket.create_connection((host, slow), timeout=60)
    sending = threading.Thread(target=stuck.sendall, args=(bytes(1 << 25),))
    sending.start()
    answer = say(host, quick, "go on")
    sending.join()
    stuck.close()
    return answer


async def _one(host, port, number):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"%d" % number)
    writer.write_eof()
    got = await reader.read()
    writer.close()
    return int(got)


def many(host, port, count):
    async def all_at_once():
        return await asyncio.gather(*(_one(host, port, number) for number in range(count)))

    return sorted(asyncio.run(all_at_once())) == list(range(count))


LEFT = []


def leave(host, port, size):
    made = socket.create_connection((host, port), timeout=60)
    made.sendall(b"x" * size)
    LEFT.append(made)
    return "left"


def call_and_leave(host, port, count):
    LEFT.extend(socket.create_connection((host, port), timeout=60) for _ in range(count))


def hold(host, port):
    made = socket.create_connection((host, port), timeout=60)
    made.sendall(b"holding")
    made.recv(1)
    return "let go"


def endless(host, port):
    made = socket.create_connection((host, port), timeout=60)
    while True:
        made.sendall(bytes(1 << 16))
