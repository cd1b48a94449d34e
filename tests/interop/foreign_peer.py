#!/usr/bin/env python3
"""Foreign HTTP/2 stacks as clients of our node, and as a node for our clients: grpcio (Google's C core) and python-h2.

What is said over the link comes from wire_peer.py; here are only the ways that its messages travel. A violation of HTTP/2 or gRPC
that either stack sees ends the program with an error.

    foreign_peer.py client --stack grpcio|h2 --port PORT      needs somebody who answers as org/ns/bob
    foreign_peer.py serve --stack grpcio|h2                   one client sends to org/ns/wire, then one receives as org/ns/alice
"""
import os, queue, socket, struct, threading, time, traceback
from concurrent import futures

import grpc, h2.config, h2.connection, h2.events, hyperframe.frame
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519

import hashlib, hmac, wire_peer
from wire_peer import bytes_field, decode, int_field

PATH = "/dataplane.proto.v1.DataPlaneService/OpenChannel"
PATIENCE = 30

# --- channels: write(message), inbox of messages (None: the end), how it ended ----------------------------------------------------
class H2:
    """One connection of python-h2 with its one stream, either side."""
    def __init__(self, sock, client):
        self.sock, self.client, self.lock = sock, client, threading.Condition()
        self.inbox, self.buffer, self.ended, self.head = queue.Queue(), b"", None, threading.Event()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding="utf-8"))
        self.h2.initiate_connection()
        if client:
            self.h2.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":authority", "node"), (":path", PATH),
                                     ("te", "trailers"), ("content-type", "application/grpc")])
        self._flush()
        threading.Thread(target=self._run, daemon=True).start()
        assert self.head.wait(PATIENCE), "no head"

    def _flush(self): self.sock.sendall(self.h2.data_to_send())

    def _run(self):
        try:
            while data := self.sock.recv(65536):
                with self.lock:
                    for event in self.h2.receive_data(data): self._on(event)
                    self._flush(); self.lock.notify_all()
            self._end("connection closed")
        except OSError as error: self._end(f"connection lost: {error}")
        except Exception: traceback.print_exc(); os._exit(1)

    def _on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            assert dict(event.headers)[":path"] == PATH and dict(event.headers)["te"] == "trailers", event.headers
            self.h2.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")]); self.head.set()
        elif isinstance(event, h2.events.ResponseReceived):
            assert dict(event.headers) == {":status": "200", "content-type": "application/grpc"}, event.headers; self.head.set()
        elif isinstance(event, h2.events.DataReceived):
            self.buffer += event.data; self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
            while len(self.buffer) >= 5 and len(self.buffer) >= 5 + struct.unpack(">I", self.buffer[1:5])[0]:
                end = 5 + struct.unpack(">I", self.buffer[1:5])[0]; self.inbox.put(self.buffer[5:end]); self.buffer = self.buffer[end:]
        elif isinstance(event, h2.events.TrailersReceived): self._end(f"status {dict(event.headers)['grpc-status']}")
        elif isinstance(event, h2.events.StreamEnded): self._end("end of stream")
        elif isinstance(event, h2.events.StreamReset): self._end(f"reset {int(event.error_code)}")
        elif isinstance(event, h2.events.ConnectionTerminated): assert event.error_code == 0, event; self._end("goaway")

    def _end(self, how):
        if self.ended is None: self.ended = how; self.inbox.put(None)

    def write(self, message):
        data = b"\0" + struct.pack(">I", len(message)) + message
        with self.lock:
            while data and self.ended is None: # nobody reads it after the end
                size = min(len(data), self.h2.local_flow_control_window(1), self.h2.max_outbound_frame_size)
                if size: self.h2.send_data(1, data[:size]); self._flush(); data = data[size:]
                else: assert self.lock.wait(PATIENCE), "no window"

    def cancel(self):
        with self.lock: self.h2.reset_stream(1, 8); self._flush()
        self.sock.shutdown(socket.SHUT_WR)

    def half_close(self):
        with self.lock: self.h2.end_stream(1); self._flush()

    def goaway(self):
        """Announces the end, as a server does that wants to stop; the stream goes on."""
        with self.lock: self.sock.sendall(hyperframe.frame.GoAwayFrame(0, last_stream_id=1, error_code=0).serialize())

    def finish(self):
        with self.lock: self.h2.send_headers(1, [("grpc-status", "0")], end_stream=True); self._flush()

class GrpcCall:
    """A call of grpcio."""
    def __init__(self, port):
        self.outbox, self.inbox, self.ended = queue.Queue(), queue.Queue(), None
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1)])          # else channels share a connection, one that is just ending, too
        self.call = self.channel.stream_stream(PATH)(iter(self.outbox.get, None))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            for message in self.call: self.inbox.put(message)
        except grpc.RpcError: pass
        code, details = self.call.code().value[0], self.call.details()
        self.ended = f"status {code}" + (f" ({details})" if details else ""); self.inbox.put(None)

    def write(self, message): self.outbox.put(message)
    def cancel(self): self.call.cancel()
    def half_close(self): self.outbox.put(None)

class GrpcServed:
    """A call that a server of grpcio got."""
    def __init__(self, server, requests, context):
        self.server, self.outbox, self.inbox, self.ended = server, queue.Queue(), queue.Queue(), None
        context.add_callback(lambda: self._end("done"))
        threading.Thread(target=self._run, args=[requests], daemon=True).start()

    def _run(self, requests):
        try:
            for message in requests: self.inbox.put(message)
        except Exception: pass                               # grpcio raises a bare Exception when a call is cancelled
        self._end("end of stream")

    def _end(self, how):
        if self.ended is None: self.ended = how; self.inbox.put(None); self.outbox.put(None)

    def write(self, message): self.outbox.put(message)
    def goaway(self): self.server.stop(PATIENCE)             # GOAWAY at once; calls may take so long to end
    def finish(self): self.outbox.put(None)

# --- servers: a queue of channels -------------------------------------------------------------------------------------------------
def h2_server():
    listener, channels = socket.create_server(("127.0.0.1", 0)), queue.Queue()
    def run():
        while True: channels.put(H2(listener.accept()[0], client=False))
    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1], channels

def grpcio_server():
    channels = queue.Queue()
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    def handler(requests, context):
        # The head at once: nothing is sent to a server before it.
        context.send_initial_metadata(())
        served = GrpcServed(server, requests, context); channels.put(served)
        yield from iter(served.outbox.get, None)
    method = grpc.stream_stream_rpc_method_handler(handler)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("dataplane.proto.v1.DataPlaneService", {"OpenChannel": method})])
    port = server.add_insecure_port("127.0.0.1:0"); server.start()
    return port, channels

# --- links over them ------------------------------------------------------------------------------------------------------------
class Link(wire_peer.Link):
    def __init__(self, channel): self.channel, self.bad = channel, None
    def write(self, message): self.channel.write(message)

    def read(self, seconds):
        try: message = self.channel.inbox.get(timeout=max(0.01, seconds))
        except queue.Empty: return None
        if message is None: raise EOFError(self.channel.ended)
        return message

    def end(self):
        """Waits for the end, and says how it came."""
        until = time.time() + PATIENCE
        while time.time() < until:
            try: self.read(1)
            except EOFError as error: return str(error)
        raise SystemExit("the link does not end")

class Dialled(Link):
    def __init__(self, channel): super().__init__(channel); self._negotiate()

class Accepted(Link):
    """Says yes to every subscription."""
    def __init__(self, channel):
        super().__init__(channel); self.names = set()
        request = decode(decode(decode(super().read(PATIENCE))[5][0])[1][0])
        self.id, private = request[1][0].decode(), x25519.X25519PrivateKey.generate()
        public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        reply = (bytes_field(1, request[1][0]) + bytes_field(2, b"3.4.6") + int_field(3, 1) + bytes_field(4, public)
                 + int_field(5, request.get(5, [0])[0]) + bytes_field(6, b"node-foreign"))
        self.write(bytes_field(5, bytes_field(1, reply)))
        shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(request[4][0]))
        pseudo_random_key = hmac.new(self.id.encode(), shared, hashlib.sha256).digest()
        self.key = hmac.new(pseudo_random_key, b"SLIM-DP-inter-node-hmac-v1\x01", hashlib.sha256).digest()

    def read(self, seconds):
        message = super().read(seconds)
        if message is None: return None
        for kind, subscription in decode(message).items():
            if kind not in (1, 2): return message
            fields = decode(subscription[0]); header = decode(fields[1][0])
            assert header[11][0] == self.mac(header[1][0], header[2][0], header.get(3, [b""])[0], header[4][0], header[6][0]), "MAC"
            self.names.add(header[2][0])
            self.write(bytes_field(6, int_field(1, fields[2][0]) + int_field(2, 1)))
        return self.read(seconds)

class Peer(wire_peer.Peer):
    def __init__(self, link, local, secret): self.me, self.bad, self.link = wire_peer.Identity(local, secret), None, link

# --- the two roles ----------------------------------------------------------------------------------------------------------------
def client(a):
    connect = lambda: Dialled(GrpcCall(a.port) if a.stack == "grpcio" else H2(socket.create_connection(("127.0.0.1", a.port)), client=True))
    peer = Peer(connect(), "org/ns/foreign", a.secret); peer.link.subscribe(peer.me)
    a.remote, a.reply, a.count = "org/ns/bob", True, 3
    for a.size in (0, 1000000): wire_peer.send(a, peer)
    peer.link.channel.half_close(); print("half-close:", peer.link.end(), flush=True)
    cancelled = connect(); cancelled.channel.cancel(); print("cancel:", cancelled.end(), flush=True)
    last = connect(); last.subscribe(peer.me); print("waiting for the end", flush=True)
    print("shutdown:", last.end(), flush=True)

def serve(a):
    port, channels = grpcio_server() if a.stack == "grpcio" else h2_server()
    print("listening on", port, flush=True)
    link = Accepted(channels.get(timeout=PATIENCE)); a.reply = True
    wire_peer.receive(a, Peer(link, "org/ns/wire", a.secret)); print("sender:", link.end(), flush=True)
    link = Accepted(channels.get(timeout=PATIENCE))
    while not link.names: link.read(0.05)
    link.channel.goaway(); print("goaway", flush=True)
    a.remote, a.size, a.count = "org/ns/alice", 100000, 3
    wire_peer.send(a, Peer(link, "org/ns/wire", a.secret))
    link.channel.finish(); print("receiver:", link.end(), flush=True)
    if a.stack == "grpcio": return                           # this server is gone
    again = Accepted(channels.get(timeout=PATIENCE))
    while not again.names: again.read(0.05)
    assert (again.id, again.names) == (link.id, link.names); print("the receiver is back", flush=True)
    again.channel.finish(); again.end()

if __name__ == "__main__":
    o = wire_peer.options(); o.add_argument("--stack", choices=["grpcio", "h2"], required=True)
    a = o.parse_args(); {"client": client, "serve": serve}[a.role](a)
    os._exit(0)                                              # threads of grpcio may linger
