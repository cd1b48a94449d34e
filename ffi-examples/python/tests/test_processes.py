"""What the package promises about signals, fork() and the collector."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

from test_libslim import ENVIRONMENT, HERE, SECRET, Network  # which finds the package, too

import libslim
from libslim import _library

MAIN = threading.main_thread().ident


class Interrupted(Exception):
    """What the tests' signal handlers raise."""


def interrupt(*_):
    raise Interrupted


def when(condition, act):
    """Acts in another thread as soon as the condition is true."""

    def run():
        while not condition():
            time.sleep(0.001)
        act()

    threading.Thread(target=run, daemon=True).start()


def in_the_background():
    """The calls that cannot be cut into slices and are under way."""
    threads = threading.enumerate()
    return {thread for thread in threads if thread.name == "slim-call" and thread.is_alive()}


class Signals(Network):
    def setUp(self):
        super().setUp()
        signal.signal(signal.SIGUSR1, interrupt)

    def interrupted(self, call, *arguments):
        """The call is left within a second after a signal."""
        before, sent = in_the_background(), []

        def send():
            sent.append(time.monotonic())
            signal.pthread_kill(MAIN, signal.SIGUSR1)

        when(lambda: in_the_background() - before, send)
        with self.assertRaises(Interrupted):
            call(*arguments)
        self.assertLess(time.monotonic() - sent[0], 1)
        return (in_the_background() - before).pop()

    def still_works(self, app):
        """The app's node is as good as before."""
        with libslim.Node() as server:
            connection = app.connect(f"http://127.0.0.1:{server.listen('127.0.0.1:0')}")
            with server.app("org/test/carol", secret=SECRET) as carol:
                app.set_route("org/test/carol", connection)
                with app.open("org/test/carol") as session:
                    session.publish(b"x")
                    self.assertEqual(carol.accept(timeout=30).receive(timeout=30).data, b"x")

    def test_a_call_that_is_left_ruins_nothing(self):
        near, far = self.pair()
        connection = self.bob.connect(self.endpoint)
        self.server.close()
        # Nobody answers any more.
        self.interrupted(self.bob.subscribe, "org/test/other", connection)
        self.interrupted(near.close)
        with self.assertRaises(libslim.ClosedError):
            near.receive()
        self.interrupted(self.bob.connect, self.endpoint)
        self.still_works(self.bob)
        far._release()

    def test_what_a_call_achieves_after_it_was_left_is_undone(self):
        go_on, undone = threading.Event(), []
        thread = self.interrupted(
            _library.interruptible, lambda: go_on.wait() and 4711, undone.append
        )
        self.assertEqual(undone, [])
        go_on.set()
        thread.join(30)
        self.assertEqual(undone, [4711])

    def lost(self, function):
        """Interrupts the next call of a function of the library when it has just returned."""
        original = getattr(_library.lib, function)

        def call(*arguments):
            setattr(_library.lib, function, original)
            status = original(*arguments)
            signal.raise_signal(signal.SIGUSR1)
            return status

        setattr(_library.lib, function, call)

    def test_what_was_received_is_kept_for_the_next_call(self):
        near, far = self.pair()
        for data in (b"1", b"2", b"3"):
            near.publish(data)
        for function in ("slim_session_receive", "slim_message_view"):
            self.lost(function)
            with self.assertRaises(Interrupted):
                far.receive(timeout=30)
        self.assertEqual([far.receive(timeout=30).data for _ in range(3)], [b"1", b"2", b"3"])
        with self.bob.open("org/test/alice") as session:
            self.lost("slim_app_accept")
            with self.assertRaises(Interrupted):
                self.alice.accept(timeout=30)
            self.assertEqual(self.alice.accept(timeout=0).id, session.id)

    # Before, Python runs handlers also between the end of a call and what is done with its value.
    @unittest.skipIf(sys.version_info < (3, 11), "needs Python 3.11")
    def test_no_message_is_lost_in_a_storm_of_signals(self):
        near, far = self.pair()
        count, got, interrupted, armed = 300, [], 0, False

        def strike(*_):
            nonlocal armed
            if armed:
                armed = False
                raise Interrupted

        signal.signal(signal.SIGALRM, strike)
        threading.Thread(target=lambda: [near.publish(b"%d" % n) for n in range(count)]).start()
        # What strikes in a __del__ is only printed.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
        deadline = time.monotonic() + 30
        while len(got) < count and time.monotonic() < deadline:
            try:
                armed = True
                got.append(far.receive(timeout=30))
                armed = False
            except Interrupted:
                interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        self.assertEqual([int(message.data) for message in got], list(range(count)))
        self.assertGreater(interrupted, 10)

    def test_ctrl_c_leaves_a_blocking_receive(self):
        program = (
            "import libslim, signal, sys\n"
            # A shell may have told these tests to ignore Ctrl-C.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "with libslim.Node() as node, node.app('org/test/dave', secret=sys.argv[2]) as app:\n"
            "    app.connect(sys.argv[1])\n"
            "    with app.open('org/test/alice') as session:\n"
            "        try:\n"
            "            print('receiving', flush=True)\n"
            "            session.receive()\n"
            "        except KeyboardInterrupt:\n"
            "            print('left', flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, self.endpoint, SECRET], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        far = self.alice.accept(timeout=30)
        self.assertEqual(process.stdout.readline(), "receiving\n")
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        self.assertEqual(process.stdout.readline(), "left\n")
        self.assertLess(time.monotonic() - begun, 1)
        # It ends in good order.
        self.assertEqual(process.wait(30), 0)
        with self.assertRaises(libslim.ClosedError):
            far.receive(timeout=30)


def child(endpoint, inherited):
    """What a child process does: it refuses what it has inherited, and has a node of its own."""
    for handle, call in inherited:
        try:
            getattr(handle, call)()
            raise AssertionError(f"{call} works in a child")
        except libslim.ForkedError:
            pass
        with contextlib.suppress(libslim.ForkedError):
            handle.close()
    with libslim.Node() as node, node.app("org/test/child", secret=SECRET) as app:
        app.connect(endpoint)
        with app.open("org/test/alice") as session:
            session.publish(b"from a child")
            session.flush()


class Processes(Network):
    def run_child(self, method, inherited):
        process = multiprocessing.get_context(method).Process(
            target=child, args=(self.endpoint, inherited)
        )
        process.start()
        session = self.alice.accept(timeout=30)
        self.assertEqual(session.receive(timeout=30).data, b"from a child")
        process.join(60)
        self.assertEqual(process.exitcode, 0)

    def test_spawn(self):
        self.run_child("spawn", [])

    def test_fork_while_other_threads_wait(self):
        near, far = self.pair()
        waiting = threading.Thread(target=far.receive, daemon=True)
        waiting.start()
        inherited = [(near, "fileno"), (far, "receive"), (self.bob, "fileno")]
        inherited += [(self.alice, "accept"), (self.server, "stats")]
        self.run_child("fork", inherited)
        # The parent has not noticed.
        near.publish(b"x")
        waiting.join(30)
        self.assertFalse(waiting.is_alive())

    def test_fork_while_a_lock_is_held(self):
        near, far = self.pair()
        held, go_on = threading.Event(), threading.Event()

        def hold():
            with _library._left_lock:
                held.set()
                go_on.wait(30)

        threading.Thread(target=hold, daemon=True).start()
        held.wait(30)
        # Just before the fork, for which the package waits then: what is registered last runs first.
        os.register_at_fork(before=go_on.set)
        self.run_child("fork", [(near, "receive")])


class Finalizers(Network):
    def test_they_do_not_wait(self):
        # A node whose peer does not answer: freeing it takes two seconds.
        server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), "--slim", "127.0.0.1:0"],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        port = server.stderr.readline().rsplit(" ", 1)[1].strip()
        node = libslim.Node()
        node.connect(f"http://127.0.0.1:{port}")
        server.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        del node
        gc.collect()
        self.assertLess(time.monotonic() - begun, 0.5)
        self.assertEqual(len(_library._stopping), 1)
        server.kill()
        while _library._stopping:
            _library.free_stopped_nodes()
            time.sleep(0.001)

    def test_a_program_that_just_ends_says_goodbye(self):
        program = (
            "import libslim, sys\n"
            "node = libslim.Node()\n"
            "app = node.app('org/test/dave', secret=sys.argv[2])\n"
            "app.connect(sys.argv[1])\n"
            "session = app.open('org/test/alice')\n"
            "session.publish(b'last words')\n"
        )
        subprocess.run([sys.executable, "-c", program, self.endpoint, SECRET], check=True)
        session = self.alice.accept(timeout=30)
        self.assertEqual([message.data for message in session], [b"last words"])

    def test_nothing_is_left(self):
        near, far = self.pair()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            session = self.bob.open("org/test/alice")
            session.publish(b"x")
            accepted = self.alice.accept(timeout=30)
            accepted.fileno(), accepted.receive(timeout=30)
        del session, accepted
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


if __name__ == "__main__":
    unittest.main()
