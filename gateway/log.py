"""The log: JSON lines to a file or to stdout."""
import json
import logging
import logging.handlers
import os
import queue
import sys
import time

from settings import Mistake

MAX_WAITING = 10000  # lines

logging.raiseExceptions = False  # a line that cannot be written is lost, and is no other line


class Log:
    """Write JSON lines to a file, which may be moved at any time, or without a path to stdout.

    A thread writes them: a disk that is full or slow stops no call.
    """

    def __init__(self, path=None):
        target = logging.StreamHandler(sys.stdout)
        if path is not None:
            try:
                target = _File(path, encoding='ascii')
            except OSError as error:
                raise Mistake('[server] log: %s: %s' % (path, error.strerror))
        lines = queue.Queue(MAX_WAITING)
        self._queue = logging.handlers.QueueHandler(lines)
        self._listener = logging.handlers.QueueListener(lines, target)
        self._listener.start()

    def write(self, **fields):
        """Write one line with these fields."""
        now = time.time()
        stamp = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))
        line = json.dumps(dict({'time': '%s.%03dZ' % (stamp, now % 1 * 1000)}, **fields))
        self._queue.handle(logging.makeLogRecord({'msg': line}))

    def close(self):
        """Write the lines that wait."""
        try:
            self._listener.stop()
        except queue.Full:
            pass


class _File(logging.handlers.WatchedFileHandler):
    def emit(self, record):
        try:
            logging.handlers.WatchedFileHandler.emit(self, record)
        except OSError:  # the file was moved, and no other can be made: the thread must go on
            pass


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
