"""The log: JSON lines to a file or to stdout."""
import json
import logging
import os
import queue
import threading
import time

from settings import Mistake

MAX_WAITING = 10000  # lines


class Log:
    """Write JSON lines to a file or, without a path, to stdout.

    A thread writes them: a disk that is full or slow stops no call. Lines that cannot be written
    are counted, and the count is logged.
    """

    def __init__(self, path=None):
        self._path = path
        self._descriptor = 1
        if path is not None:
            self._descriptor = self._open()
        self._lines = queue.Queue(MAX_WAITING)
        self._lost, self._is_torn = 0, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _open(self):
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except OSError as error:
            raise Mistake('[server] log: %s: %s' % (self._path, error.strerror))

    def reopen(self):
        """Open the file again, because it may have been moved. Raises Mistake."""
        if self._path is not None:
            descriptor = self._open()
            # The number stays the same. The thread could otherwise write into a new connection.
            os.dup2(descriptor, self._descriptor, inheritable=False)
            os.close(descriptor)

    def write(self, **fields):
        """Write one line with these fields."""
        now = time.time()
        stamp = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))
        try:
            self._lines.put_nowait(dict({'time': '%s.%03dZ' % (stamp, now % 1 * 1000)}, **fields))
        except queue.Full:
            self._lost += 1

    def close(self):
        """Write what is waiting, for at most some seconds."""
        try:
            self._lines.put(None, timeout=2)
        except queue.Full:
            return
        self._thread.join(2)

    def _run(self):
        for fields in iter(self._lines.get, None):
            if self._lost:
                fields = dict(fields, lines_lost_before=self._lost)
            line = json.dumps(fields).encode('ascii') + b'\n'
            if self._is_torn:
                line = b'\n' + line
            try:
                written = os.write(self._descriptor, line)
            except OSError:
                written = 0
            if written == len(line):
                self._lost, self._is_torn = 0, False
            else:
                self._lost += 1
                self._is_torn = self._is_torn or written > 0


class LogHandler(logging.Handler):
    """Write errors of the libraries, and mistakes in this program, as lines of the Log.

    Only their kind and place are written, because their texts may quote a call.
    """

    def __init__(self, log):
        logging.Handler.__init__(self, logging.WARNING)
        self._log = log

    def emit(self, record):
        kind, _, trace = record.exc_info or (None, None, None)
        place = record.module, record.lineno
        while trace is not None:
            place = os.path.basename(trace.tb_frame.f_code.co_filename), trace.tb_lineno
            trace = trace.tb_next
        self._log.write(event='error', source=record.name, error=kind and kind.__name__,
                        place='%s:%d' % place)
