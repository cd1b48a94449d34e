"""The package against nodes of its own. Run: python3 -m unittest discover tests"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import unittest

HERE = pathlib.Path(__file__).parent.parent
sys.path.append(str(HERE))  # behind an installed one

import libslim  # noqa: E402

# The programs use the package beside them, with the library that was found here.
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "LIBSLIM": libslim.lib._name}
SECRET = "a secret for tests, 32 bytes or more"


class Network(unittest.TestCase):
    """A node that listens, and two apps that are connected to it."""

    def setUp(self):
        self.server = self.enter(libslim.Node())
        self.endpoint = f"http://127.0.0.1:{self.server.listen('127.0.0.1:0')}"
        self.alice = self.app("org/test/alice")
        self.bob = self.app("org/test/bob")

    def enter(self, manager):
        self.addCleanup(manager.close)
        return manager

    def app(self, name, secret=SECRET):
        app = self.enter(self.enter(libslim.Node()).app(name, secret=secret))
        app.connect(self.endpoint)
        return app

    def pair(self, **options):
        opened = self.enter(self.bob.open("org/test/alice", **options))
        return opened, self.enter(self.alice.accept(timeout=30))


class Conversations(Network):
    def test_how_often_keys_have_changed_is_seen(self):
        near, far = self.pair()
        self.assertEqual((near.mls, near.epoch, far.epoch), (False, None, None))
        near, far = self.pair(mls=True)
        self.assertEqual((near.mls, near.epoch, far.epoch), (True, 1, 1))
        near.publish(b"sealed")
        self.assertTrue(far.receive(timeout=30).identity.startswith("org/test/bob_"))

    def test_a_conversation_both_ways(self):
        near, far = self.pair(metadata={"topic": "tests"})
        self.assertEqual((near.initiator, far.initiator), (True, False))
        self.assertEqual(far.metadata, {"topic": "tests"})
        self.assertEqual(near.id, far.id)
        near.publish(b"a\0b", payload_type="text/plain", metadata={"k": "v"})
        near.flush()
        got = far.receive(timeout=30)
        self.assertEqual((got.data, got.payload_type), (b"a\0b", "text/plain"))
        self.assertEqual((got.metadata, got.kind, got.source), ({"k": "v"}, 0, self.bob.name))
        far.publish_to(got, b"")
        self.assertEqual(near.receive(timeout=30).data, b"")
        self.assertEqual(set(near.participants()), {self.bob.name, self.alice.name})
        self.assertEqual(self.bob.name, f"org/test/bob/{self.bob.id}")

    def test_anything_like_bytes_is_a_payload_and_text_is_not(self):
        near, far = self.pair()
        for data in (b"bytes", bytearray(b"bytes"), memoryview(b"a bytes")[2:]):
            near.publish(data)
            self.assertEqual(far.receive(timeout=30).data, b"bytes")
        with self.assertRaises(TypeError):
            near.publish("bytes")

    def test_iteration_ends_with_the_session(self):
        near, far = self.pair()
        for data in (b"1", b"2", b"3"):
            near.publish(data)
        near.close()
        self.assertEqual([message.data for message in far], [b"1", b"2", b"3"])

    def test_best_effort(self):
        near, far = self.pair(reliable=False)
        near.publish(b"x")
        self.assertEqual(far.receive(timeout=30).data, b"x")

    def test_a_json_object_and_stats(self):
        client = {"endpoint": self.endpoint, "tls": {"insecure": True}}
        identity = {"type": "shared_secret", "data": SECRET}
        node = self.enter(libslim.Node({"node_id": "carol's"}))
        carol = self.enter(
            node.app("org/test/carol", identity={"provider": identity, "verifier": identity})
        )
        carol.connect(client)
        with carol.open("org/test/alice"):
            self.assertEqual(self.alice.accept(timeout=30).destination, carol.name)
        self.assertTrue(node.stats())


class Groups(Network):
    def group(self, **options):
        return self.enter(self.bob.open("org/test/chat", group=True, events=True, **options))

    def joined(self, app):
        session = self.enter(app.accept(timeout=30))
        session.set_events(True)
        return session

    def event(self, session, kind, of):
        got = session.receive(timeout=30)
        self.assertEqual((libslim.Kind(got.kind), got.source), (kind, of.name))

    def test_members_come_talk_go_away_come_back_and_leave(self):
        carol, group = self.app("org/test/carol"), self.group(metadata={"topic": "tests"})
        self.assertEqual(group.participants(), {self.bob.name: True})
        group.invite("org/test/alice")
        op = group.invite_start("org/test/carol")
        op.wait(30)
        op.close()
        alices, carols = self.joined(self.alice), self.joined(carol)
        self.assertEqual(
            (alices.group, alices.initiator, alices.destination, alices.metadata),
            (True, False, "org/test/chat", {"topic": "tests"}),
        )
        self.assertEqual((group.group, group.initiator), (True, True))
        names = {self.bob.name: True, self.alice.name: True, carol.name: True}
        self.assertEqual(carols.participants(), names)
        group.publish(b"welcome")
        group.flush()
        self.assertEqual(alices.receive(timeout=30).data, b"welcome")
        got = carols.receive(timeout=30)
        carols.publish_start(b"to you", to=got).wait(30)
        answer = group.receive(timeout=30)
        self.assertEqual((answer.data, answer.is_reply), (b"to you", True))
        carols.publish_start(b"to all").wait(30)
        self.assertEqual(alices.receive(timeout=30).data, b"to all")
        self.assertEqual(group.receive(timeout=30).data, b"to all")

        carols.suspend()
        for member in (group, alices):
            self.event(member, libslim.Kind.PEER_OFFLINE, carol)
            self.assertEqual(member.participants(), {**names, carol.name: False})
        with self.assertRaisesRegex(libslim.NotAllowedError, "suspended"):
            carols.suspend()
        carols.rejoin()
        for member in (group, alices):
            self.event(member, libslim.Kind.PEER_ONLINE, carol)

        with self.assertRaises(libslim.ExistsError):
            group.invite("org/test/alice")
        with self.assertRaises(libslim.NotAllowedError):
            alices.remove("org/test/carol")
        with self.assertRaises(libslim.NotFoundError):
            group.remove("org/test/nobody")
        group.remove("org/test/carol")
        self.event(alices, libslim.Kind.PEER_LEFT, carol)
        self.assertEqual(carols.receive(timeout=30).kind, libslim.Kind.SESSION_CLOSED)
        group.remove_start(self.alice.name).wait(30)
        self.assertEqual(alices.receive(timeout=30).data, b"removed by the moderator")
        self.assertEqual(group.participants(), {self.bob.name: True})

    def test_an_invitation_in_time_or_not_at_all(self):
        group = self.group(max_retries=2, retry_interval=0.05)
        with self.assertRaises(libslim.NoRouteError):
            group.invite("org/test/nobody")
        # Behind one that takes its time.
        group.invite_start("org/test/nobody")
        with self.assertRaises(libslim.TimeoutError):
            group.invite("org/test/alice", timeout=0)
        group.invite("org/test/alice")
        self.joined(self.alice)

    def test_directions(self):
        self.alice.set_direction("receive-only")
        group = self.group()
        group.invite("org/test/alice")
        alices = self.joined(self.alice)
        with self.assertRaisesRegex(libslim.NotAllowedError, "only receives"):
            alices.publish_start(b"x").wait(30)
        with self.assertRaisesRegex(ValueError, "up"):
            self.alice.set_direction("up")

    def test_anycast_reaches_every_instance(self):
        other = self.app("org/test/alice")
        with self.bob.open("org/test/alice", anycast=True) as session:
            for number in range(4):
                session.publish(b"%d" % number)
            session.flush()
            for app in (self.alice, other):
                for _ in range(2):
                    far = self.enter(app.accept(timeout=30))
                    got = far.receive(timeout=30)
                    far.publish_to(got, got.data)
            answers = {session.receive(timeout=30).data for _ in range(4)}
            self.assertEqual(answers, {b"0", b"1", b"2", b"3"})


class Mistakes(Network):
    def test_errors_are_of_their_class_and_name_the_value(self):
        node = self.enter(libslim.Node())
        with self.assertRaisesRegex(libslim.InvalidNameError, "no/name"):
            node.app("no/name", secret=SECRET)
        with self.assertRaisesRegex(libslim.AuthError, "32 are needed"):
            node.app("org/test/x", secret="short")
        with self.assertRaisesRegex(libslim.InvalidConfigError, "did you mean") as raised:
            libslim.Node({"node_idd": "x"})
        self.assertEqual(raised.exception.status, -3)
        with self.assertRaises(libslim.UnsupportedError):
            node.connect("https://127.0.0.1:1")

    def test_times(self):
        begun = time.monotonic()
        for error in (libslim.TimeoutError, TimeoutError):
            with self.assertRaises(error):
                self.alice.accept(timeout=0.05)
            with self.assertRaises(error):
                self.alice.accept(timeout=0)
        self.assertTrue(0.1 <= time.monotonic() - begun < 10)
        for wrong in (-1, float("nan")):
            with self.assertRaises(ValueError):
                self.alice.accept(timeout=wrong)

    def test_a_slice_that_runs_out_is_not_the_end(self):
        self.alice._SLICE = 0.01
        threading.Timer(0.1, lambda: self.enter(self.bob.open("org/test/alice"))).start()
        self.enter(self.alice.accept(timeout=30))

    def test_closing_ends_waits_and_frees_once(self):
        near, far = self.pair()
        ended = []

        def wait():
            try:
                far.receive()
            except libslim.ClosedError as error:
                ended.append(error)

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        far.close()
        far.close()
        for thread in threads:
            thread.join(10)
        self.assertEqual(len(ended), 4)
        with self.assertRaisesRegex(libslim.ClosedError, "session is closed"):
            far.publish(b"x")

    def test_any_order_of_closing(self):
        near, far = self.pair()
        self.bob._node.close()
        with self.assertRaises(libslim.ClosedError):
            near.receive(timeout=30)
        self.bob.close()
        near.close()


class Programs(Network):
    def run_program(self, name, *arguments, **more):
        command = [sys.executable, str(HERE / name), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env={**ENVIRONMENT, **more}, **pipes)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_ctrl_c_ends_a_waiting_receiver(self):
        slim = json.dumps({"endpoint": self.endpoint, "tls": {"insecure": True}})
        process = self.run_program(
            "point_to_point.py", "--slim", slim, SLIM_LOCAL="org/test/p", SLIM_SHARED_SECRET=SECRET
        )
        for expected in ("Created app", f"Connected to {self.endpoint}", "waiting for new session"):
            self.assertIn(expected, process.stdout.readline())
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        out, err = process.communicate(timeout=30)
        self.assertEqual((out, err, process.returncode), ("Client interrupted by user.\n", "", 0))
        self.assertLess(time.monotonic() - begun, 5)


class Printed(unittest.TestCase):
    def test_h8_the_bytes_of_a_line(self):
        from common import format_message

        expected = "1b5b316d1b5b39366d416c696365" + 40 * "20" + "1b5b306d78"
        self.assertEqual(format_message("alice", "x").encode().hex(), expected)


class Declarations(unittest.TestCase):
    def test_ffi_is_what_the_header_says(self):
        command = [sys.executable, str(HERE / "make_ffi.py"), "--check"]
        self.assertEqual(subprocess.run(command).returncode, 0)


if __name__ == "__main__":
    unittest.main()
