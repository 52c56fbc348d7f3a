"""An upgrade while sessions are open: the next hook runs the new release with the cookie of the old one."""
from __future__ import unicode_literals

import pytest

KEY = 'SPS_TPAM_XMLRPC'


def cookie_of_1_0_0(mode, request, server):
    """The cookie that get_password_list of release 1.0.0 returned for root on WEB01, with force_reset=yes."""
    entry = {'account': 'root', 'system': 'WEB01'}
    checked_out = [dict(entry, command='ForceReset', request=None)]
    if request is not None:
        checked_out.insert(0, dict(entry, command='Cancel', request=request))
    return {KEY: {'account': 'root', 'system': 'WEB01', 'user': 'jdoe', 'mode': mode, 'request': request,
                  'server': server, 'protocol': 'ssh', 'given': 1, 'returned': 0, 'denied': {},
                  'hooks': ['get_password_list'], 'open': checked_out}}


def commands(world):
    return [entry.command for entry in world.tpam.audit]


@pytest.mark.parametrize('mode', ['request', 'gateway'])
def test_a_session_that_release_1_0_0_began_is_checked_in(world, mode):
    session = world.session(tpam={'authorization': mode}, check_in={'force_reset': 'yes'})
    assert session.call('get_password_list').credentials
    request = session.cookie[KEY]['request']
    session.cookie = cookie_of_1_0_0(mode, request, 'localhost:%d' % world.server.port)
    again = session.call('get_password_list')
    assert again.credentials
    assert commands(world).count('AddPwdRequest') == (mode == 'request')
    ended = session.call('session_ended')
    assert "check_in='done'" in ended.log
    assert "credentials='2'" in ended.log
    if mode == 'request':
        assert commands(world)[-2:] == ['Cancel', 'ForceReset']
    else:
        assert commands(world)[-1] == 'ForceReset'
