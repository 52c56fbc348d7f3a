"""The log: JSON lines to a file or to stdout."""
import contextlib
import itertools
import json
import logging
import os
import queue
import threading
import time

from settings import Mistake

MAX_WAITING = 10000  # lines


class Log(logging.Handler):
    """Write JSON lines to a file, which may be moved at any time, or without a path to stdout.

    A thread writes them: a disk that is full or slow stops no call. The next line that can be
    written says how many were lost. As a handler of logging, write errors of the libraries and
    mistakes in this program: only their kind and place, because their texts may quote a call.
    """

    def __init__(self, path=None):
        logging.Handler.__init__(self, logging.WARNING)
        self._path, self._lines, self._numbers = path, queue.Queue(MAX_WAITING), itertools.count(1)
        try:
            self._append('')
        except OSError as error:
            raise Mistake('[server] log: %s: %s' % (path, error.strerror))
        self._thread = threading.Thread(target=self._write_lines, daemon=True)
        self._thread.start()

    def write(self, **fields):
        """Write one line with these fields."""
        now = time.time()
        stamp = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))
        line = dict({'time': '%s.%03dZ' % (stamp, now % 1 * 1000)}, **fields)
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait((next(self._numbers), line))

    def _write_lines(self):
        last = 0  # number of the line that was written last
        while True:
            number, line = self._lines.get()
            if line is None:
                return
            if number > last + 1:
                line['lost'] = number - last - 1
            with contextlib.suppress(OSError):
                self._append(json.dumps(line) + '\n')
                last = number

    def _append(self, text):
        if self._path is None:
            print(text, end='', flush=True)
        else:
            with open(self._path, 'a', encoding='ascii') as out:
                out.write(text)

    def close(self):
        """Write the lines that wait."""
        self._lines.put((0, None))
        self._thread.join()

    def emit(self, record):
        kind, _, trace = record.exc_info or (None, None, None)
        place = record.module, record.lineno
        while trace is not None:
            place = os.path.basename(trace.tb_frame.f_code.co_filename), trace.tb_lineno
            trace = trace.tb_next
        self.write(event='error', source=record.name, error=kind and kind.__name__,
                   place='%s:%d' % place)
