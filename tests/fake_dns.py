"""A name server on loopback, for what dnspython asks: FakeSps(nameserver=FakeDns(...).address)."""
import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset


class FakeDns(object):
    """Serves `records` inside a `with` block: {(name, kind): [data]}, for example
    {('5.0.0.10.in-addr.arpa.', 'PTR'): ['web01.example.com.']}. A CNAME record is followed, as a
    recursive name server follows it. A name without any record is unknown (NXDOMAIN). A question
    is never answered where None stands in place of the list of data.

    address: (host, port) of the UDP socket. asked: [(name, kind)] so far.
    """

    def __init__(self, records):
        self.records, self.asked = records, []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(('127.0.0.1', 0))
        self.address = self._socket.getsockname()

    def __enter__(self):
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.sendto(b'', self.address)
        self._thread.join()
        self._socket.close()

    def _serve(self):
        query, client = self._socket.recvfrom(4096)
        while query:
            answer = self._answer(dns.message.from_wire(query))
            if answer:
                self._socket.sendto(answer.to_wire(), client)
            query, client = self._socket.recvfrom(4096)

    def _answer(self, query):
        question = query.question[0]
        asked = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(asked)
        if self.records.get(asked, []) is None:
            return None
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        name, kind = asked
        while (name, kind) not in self.records and (name, 'CNAME') in self.records:
            answer.answer.append(self._rrset(name, 'CNAME'))
            name = self.records[name, 'CNAME'][0].lower()
        if self.records.get((name, kind)):
            answer.answer.append(self._rrset(name, kind))
        elif name not in [known for known, _ in self.records]:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def _rrset(self, name, kind):
        return dns.rrset.from_text(name, 60, dns.rdataclass.IN, kind, *self.records[name, kind])
