"""The plugin's side of fake_sps: a new process for one hook call, in the interpreter of the appliance.

Python 2.6 code. Reads one JSON object from stdin (directory, configuration, hook, arguments, text, shim, nameserver)
and writes one to stdout: {"returned": ...} or {"raised": {"type", "message"}}. What the plugin itself prints goes where
its stderr goes, as on SPS, where both are the log. SIGINT ends a hook as its own time limit does.
"""
import json
import os
import signal
import sys
import time
import traceback


def begin():
    """Read the call and make the plugin importable -> (the call, a file for the answer)."""
    os.setpgrp()  # Ctrl-C at a terminal is for fake_sps alone, which passes it on once
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    call = json.load(sys.stdin)
    result = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    sys.path.insert(0, call['directory'])
    if call['shim'] and sys.version_info[0] > 2:
        sys.path.append(call['shim'])
        import shim
        shim.install()
    if call['nameserver']:
        import dns.resolver
        dns.resolver.default_resolver = dns.resolver.Resolver(configure=False)
        dns.resolver.default_resolver.nameservers = [call['nameserver'][0]]
        dns.resolver.default_resolver.port = call['nameserver'][1]
    call['configuration'] = native(call['configuration'])
    if call['text'] == 'str':  # as SPS passes them: the interpreter's own str
        call['arguments'] = dict((name, native(value)) for name, value in call['arguments'].items())
    return call, result


def end(result, answer):
    """Write the answer, a dict."""
    result.write(json.dumps(answer).encode('ascii'))
    result.close()


def run_hook(call):
    """Run the hook of the call -> the answer."""
    import main as plugin
    began = time.time()
    try:
        hook = getattr(plugin.Plugin(call['configuration']), call['hook'])
        signal.signal(signal.SIGINT, end_hook)
        answer = {'returned': hook(**dict((str(name), value) for name, value in call['arguments'].items()))}
    except Exception:
        kind, error, _ = sys.exc_info()
        answer = {'raised': {'type': [base.__name__ for base in kind.__mro__], 'message': str(error)}}
        if 'TpamError' not in answer['raised']['type']:  # which the plugin has logged itself
            traceback.print_exc()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return dict(answer, seconds=time.time() - began)


def end_hook(signum, frame):
    """End the hook as SIGTERM does: it stops waiting, and checks in what it has checked out."""
    of_plugin = signal.getsignal(signal.SIGTERM)
    if callable(of_plugin):
        of_plugin(signum, frame)
    else:  # it has not asked the server anything yet
        signal.setitimer(signal.ITIMER_REAL, 0.001)


def native(value):
    """Return text as str, in UTF-8 where str is bytes; anything else unchanged."""
    if isinstance(value, str) or not isinstance(value, type(u'')):
        return value
    return value.encode('utf-8')


def main():
    """Run the requested hook."""
    call, result = begin()
    end(result, run_hook(call))


if __name__ == '__main__':
    main()
