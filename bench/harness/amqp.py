"""Just enough AMQP 0-9-1 to declare many queues and bindings at once."""

import socket
import struct


def short_string(text):
    """A length and the text."""
    octets = text.encode()
    return bytes([len(octets)]) + octets


def frame(channel, class_id, method_id, arguments):
    """A method's frame."""
    payload = struct.pack(">HH", class_id, method_id) + arguments
    return struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce"


class Channel:
    """A connection with one channel."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self.input = b""
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self.expect(10, 10)
        login = b"\0guest\0guest"
        self.call(
            frame(
                0,
                10,
                11,
                struct.pack(">I", 0)
                + short_string("PLAIN")
                + struct.pack(">I", len(login))
                + login
                + short_string("en_US"),
            ),
            10,
            30,
        )
        self.socket.sendall(frame(0, 10, 31, struct.pack(">HIH", 0, 131072, 0)))
        self.call(frame(0, 10, 40, short_string("/") + b"\0\0"), 10, 41)
        self.call(frame(1, 20, 10, b"\0"), 20, 11)

    def call(self, octets, class_id, method_id):
        """Sends something and waits for the answer."""
        self.socket.sendall(octets)
        self.expect(class_id, method_id)

    def expect(self, class_id, method_id):
        """Waits for a method; anything else but a heartbeat is an error."""
        while True:
            while len(self.input) >= 7:
                kind, _, size = struct.unpack(">BHI", self.input[:7])
                if len(self.input) < size + 8:
                    break
                payload, self.input = self.input[7 : 7 + size], self.input[8 + size :]
                if kind == 1:
                    found = struct.unpack(">HH", payload[:4])
                    if found != (class_id, method_id):
                        raise OSError(f"method {found} {payload[4:200]!r} instead of {(class_id, method_id)}")
                    return
            read = self.socket.recv(65536)
            if not read:
                raise OSError("the broker closed the connection")
            self.input += read

    def declare(self, names):
        """Declares durable queues, the last one waited for, and so all."""
        names = list(names)
        octets = b"".join(
            frame(
                1,
                50,
                10,
                b"\0\0" + short_string(name) + (b"\x02" if name is names[-1] else b"\x12") + b"\0\0\0\0",
            )
            for name in names
        )
        self.call(octets, 50, 11)

    def bind(self, queue, exchange, keys):
        """Binds a queue to an exchange with each of these keys."""
        keys = list(keys)
        octets = b"".join(
            frame(
                1,
                50,
                20,
                b"\0\0"
                + short_string(queue)
                + short_string(exchange)
                + short_string(key)
                + (b"\0" if key is keys[-1] else b"\1")
                + b"\0\0\0\0",
            )
            for key in keys
        )
        self.call(octets, 50, 21)
