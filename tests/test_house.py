# -*- coding: utf-8 -*-
"""The order of the house: few commands a session, no module that a hook can do without, and tables
that agree with what is written about them.
"""
from __future__ import unicode_literals

import ast
import inspect
import io
import os
import re

import pytest

import fake_tpam
import main
import tpamauthorize
import tpamcall
import tpamcheckout
import tpamclient
import tpamconfig
import tpamtarget
import test_policy
from conftest import PASSWORD, ROOT, configuration
from fake_sps import GET_HOOKS, NOTIFICATIONS
from test_log import child, hook_of
from test_policy import BY_REQUEST, PRIVILEGED, lines, session

quick = test_policy.quick  # the fixture

KEY = 'SPS_TPAM_XMLRPC'
BY_ADDRESS = {'system_name_resolver': 'tpam'}
SSH_SESSION = ['get_private_key_list', 'get_password_list', 'authentication_completed',
               'session_ended']


@pytest.fixture
def keyless(monkeypatch):
    """No server of this test has the command RetrieveKey."""
    monkeypatch.delitem(fake_tpam.COMMANDS, 'RetrieveKey')


def commands(world, since=0):
    return world.tpam.commands()[since:]


def asked(world, played, hook, **arguments):
    """The commands that this hook of a session sends, which must not raise."""
    since = len(world.tpam.audit)
    assert played.call(hook, **arguments).raised is None
    return commands(world, since)


def under(played, **sections):
    """Give the session this configuration; its cookie stays."""
    played.sps.configuration = configuration(**sections)
    return played


# ---- commands: each takes a real TPAM seconds

def test_a_session_by_ssh_on_a_server_without_keys_is_three_commands(world, keyless):
    played = world.session()
    results = [played.call(hook) for hook in SSH_SESSION]
    assert commands(world) == ['ListSystems', 'RetrieveKey', 'Retrieve']
    assert [result.raised for result in results] == 4 * [None]
    assert results[1].credentials == [PASSWORD]


def test_the_name_of_a_system_is_asked_for_once_a_session(quick):
    quick.tpam.account('WEB01', 'root').key = test_policy.KEY
    played = session(quick, tpam=BY_ADDRESS)
    hooks = 2 * ['get_private_key_list', 'get_password_list']
    assert [len(played.call(hook).credentials) for hook in hooks] == 4 * [1]
    assert commands(quick) == ['ListSystems', 'RetrieveKey', 'Retrieve', 'RetrieveKey', 'Retrieve']


@pytest.mark.parametrize('arguments', [
    {'server_ip': '10.0.0.6', 'server_hostname': None}, {'server_ip': '10.0.0.6'},
    {'server_hostname': 'other.test'}, {'server_domain': 'EXAMPLE'},
    {'gateway_domain': 'EXAMPLE'}, {'server_ip': None, 'server_hostname': 'WEB01'},
])
def test_another_target_is_asked_for_again(quick, arguments):
    quick.tpam.add_system('DB01', '10.0.0.6')
    for system, account in (('DB01', 'root'), ('WEB01', 'adm')):
        quick.tpam.add_account(system, account, 'password-of-%s-%s' % (system, account))
    played = session(quick, tpam=BY_ADDRESS)
    assert asked(quick, played, 'get_password_list') == ['ListSystems', 'Retrieve']
    assert asked(quick, played, 'get_password_list', **arguments) == ['ListSystems', 'Retrieve']
    assert asked(quick, played, 'get_password_list') == ['Retrieve']
    assert asked(quick, played, 'get_password_list', **arguments) == ['Retrieve']


def test_the_system_of_a_target_is_the_same_for_every_account(quick):
    quick.tpam.add_account('WEB01', 'adm', 'password-of-adm')
    played = session(quick, tpam=BY_ADDRESS)
    assert asked(quick, played, 'get_password_list') == ['ListSystems', 'Retrieve']
    assert asked(quick, played, 'get_password_list', server_username='adm') == ['Retrieve']
    assert played.calls[-1].credentials == ['password-of-adm']


def test_each_account_stands_for_its_own_real_one_which_is_asked_for_once(quick):
    for account in ('root', 'adm'):
        quick.tpam.add_account('WEB01', 'real-' + account, 'password-of-real-' + account)
        quick.tpam.add_account('WEB01', account, 'password-of-' + account,
                               custom1='real-' + account, custom2='WEB01')
    played = session(quick, tpam=dict(BY_ADDRESS, system_maptoreal='yes'))
    for _ in range(2):
        for account in ('root', 'adm'):
            result = played.call('get_password_list', server_username=account)
            assert result.credentials == ['password-of-real-' + account]
    assert commands(quick).count('ListAccounts') == 2


def test_each_target_gets_its_own_credential_from_remembered_names(quick):
    quick.tpam.add_system('DB01', '10.0.0.6')
    quick.tpam.add_account('DB01', 'root', 'password-of-db01')
    played = session(quick, tpam=BY_ADDRESS)
    for _ in range(2):
        for address, password in (('10.0.0.5', PASSWORD), ('10.0.0.6', 'password-of-db01')):
            result = played.call('get_password_list', server_ip=address)
            assert result.credentials == [password]
    assert commands(quick).count('ListSystems') == 2


@pytest.mark.parametrize('changed', [
    {'system_prefix': 'LAB-'}, {'system_name_resolver': 'fqdn,tpam'}, {'system_domains': 'test'},
    {'system_maptoreal': 'yes'},
])
def test_another_configuration_asks_for_the_name_again(quick, changed):
    quick.tpam.add_system('LAB-WEB01', '10.0.0.9')
    for system in ('WEB01', 'LAB-WEB01'):
        quick.tpam.add_account(system, 'root', PASSWORD, custom1='root', custom2='WEB01')
    played = session(quick, tpam=BY_ADDRESS)
    played.call('get_password_list')
    under(played, **quick.sections(tpam=dict(BY_ADDRESS, **changed)))
    assert 'ListSystems' in asked(quick, played, 'get_password_list')
    expected = 'LAB-WEB01' if 'system_prefix' in changed else 'WEB01'
    assert quick.tpam.audit[-1].options['SystemName'] == expected


def test_another_mapping_of_domains_is_another_configuration(quick):
    for system in ('DC01', 'DC02'):
        quick.tpam.add_system(system)
        quick.tpam.add_account(system, 'root', 'password-of-' + system)
    by_domain = {'system_name_resolver': 'domain'}
    arguments = {'server_domain': 'example.com'}
    played = session(quick, arguments, tpam=by_domain, domain_asset_mapping={'example.com': 'DC01'})
    assert played.call('get_password_list').credentials == ['password-of-DC01']
    under(played, **quick.sections(tpam=by_domain, domain_asset_mapping={'example.com': 'DC02'}))
    assert played.call('get_password_list').credentials == ['password-of-DC02']


@pytest.mark.parametrize('mode, command', [
    ({'authorization': 'approval'}, 'ListRequestDetails'), (PRIVILEGED, 'ListAssignedPolicies'),
])
def test_an_authorization_is_asked_for_by_every_hook(quick, mode, command):
    quick.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    number = quick.tpam.add_request('jdoe', 'WEB01', 'root')
    played = session(quick, tpam=dict(BY_ADDRESS, **mode))
    assert asked(quick, played, 'get_password_list') == ['ListSystems', command, 'Retrieve']
    assert asked(quick, played, 'get_password_list') == [command, 'Retrieve']
    quick.tpam.expire(number)
    del quick.tpam.policies[:]
    assert asked(quick, played, 'get_password_list') == [command]
    assert played.calls[-1].credentials == []


def test_an_authorization_of_another_gateway_user_is_asked_for_too(quick):
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    played = session(quick, tpam=dict(BY_ADDRESS, authorization='approval'))
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert played.call('get_password_list', gateway_username='eve').credentials == []


def test_a_name_that_was_not_found_is_asked_for_again(quick):
    played = session(quick, {'server_ip': '10.0.0.6'}, tpam=BY_ADDRESS)
    assert asked(quick, played, 'get_password_list') == ['ListSystems']
    quick.tpam.add_system('DB01', '10.0.0.6')
    quick.tpam.add_account('DB01', 'root', PASSWORD)
    assert asked(quick, played, 'get_password_list') == ['ListSystems', 'Retrieve']


def test_the_names_of_one_session_are_not_known_to_another(quick):
    for number in range(2):
        played = session(quick, {'session_id': 'session-%d' % number}, tpam=BY_ADDRESS)
        assert asked(quick, played, 'get_password_list') == ['ListSystems', 'Retrieve']


DAMAGED = [None, True, 5, 'WEB01', [], [''], ['WEB01', 'root'], ['WEB01', 'root', 'x'],
           ['WEB01', None], [['WEB01'], 'root'], [5, 'root'], {'0': 'WEB01', '1': 'root'}]


@pytest.mark.parametrize('damage', DAMAGED)
def test_a_damaged_name_in_the_cookie_is_ignored(quick, damage):
    played = session(quick, tpam=BY_ADDRESS)
    played.call('get_password_list')
    names = played.cookie[KEY]['names']
    assert len(names) == 1
    for known in names:
        names[known] = damage
    assert asked(quick, played, 'get_password_list') == ['ListSystems', 'Retrieve']
    assert played.calls[-1].credentials == [PASSWORD]
    assert asked(quick, played, 'get_password_list') == ['Retrieve']


@pytest.mark.parametrize('damage', [None, True, 5, 'x', [], ['WEB01', 'root']])
def test_damaged_names_in_the_cookie_are_ignored(quick, damage):
    played = session(quick, tpam=BY_ADDRESS)
    played.call('get_password_list')
    played.cookie[KEY]['names'] = damage
    assert asked(quick, played, 'get_password_list') == ['ListSystems', 'Retrieve']
    assert 'Unexpected' not in played.calls[-1].log


def test_keys_are_asked_for_once_a_session_where_the_server_gives_out_none(quick, keyless):
    played = session(quick, tpam=BY_ADDRESS)
    assert asked(quick, played, 'get_private_key_list') == ['ListSystems', 'RetrieveKey']
    line, = lines(played.calls[-1])
    assert 'gives out no private keys' in line
    for _ in range(2):
        assert asked(quick, played, 'get_private_key_list') == []
        assert played.calls[-1].credentials == []
        assert lines(played.calls[-1]) == []


@pytest.mark.parametrize('damage', [None, True, 5, 'x', [], {}])
def test_damage_does_not_keep_a_session_from_asking_for_keys(quick, damage):
    quick.tpam.account('WEB01', 'root').key = test_policy.KEY
    played = session(quick, tpam=BY_ADDRESS)
    played.call('get_private_key_list')
    played.cookie[KEY]['keyless'] = damage
    assert len(played.call('get_private_key_list').credentials) == 1


def test_keys_are_asked_for_again_where_only_this_account_has_none(quick):
    played = session(quick, tpam=BY_ADDRESS)
    assert played.call('get_private_key_list').credentials == []
    quick.tpam.account('WEB01', 'root').key = test_policy.KEY
    assert len(played.call('get_private_key_list').credentials) == 1


def test_keys_are_asked_for_again_under_another_configuration(quick, keyless):
    quick.tpam.add_account('WEB01', 'root_key', test_policy.KEY)
    played = session(quick, tpam=BY_ADDRESS)
    assert played.call('get_private_key_list').credentials == []
    keys = {'command': 'Retrieve', 'account_suffix': '_key'}
    under(played, **quick.sections(tpam=BY_ADDRESS, private_keys=keys))
    assert len(played.call('get_private_key_list').credentials) == 1


def test_a_missing_gateway_user_is_refused_although_there_are_no_keys(quick, keyless):
    played = session(quick, tpam=BY_ADDRESS)
    played.call('get_private_key_list')
    result = played.call('get_private_key_list', gateway_username=None)
    assert result.credentials == []
    assert 'No credential' in result.log


def test_no_password_is_in_the_cookie_in_any_form(quick):
    """The digests in it are of the configuration."""
    cookies = []
    for password in ('first-password', 'second-password'):
        quick.tpam.add_user('sps', password)
        played = session(quick, tpam=dict(BY_ADDRESS, password=password))
        assert played.call('get_password_list').credentials == [PASSWORD]
        cookies.append(played.cookie)
    assert cookies[0] == cookies[1]


def test_a_session_by_request_asks_for_the_name_once_too(quick):
    played = session(quick, tpam=dict(BY_REQUEST, **BY_ADDRESS))
    for hook in ('get_password_list', 'get_password_list', 'session_ended'):
        assert played.call(hook).raised is None
    assert commands(quick) == ['ListSystems', 'AddPwdRequest', 'Retrieve', 'Retrieve', 'Cancel']


# ---- modules that a hook can do without

HEAVY = ('ssl', 'socket', 'httplib', 'urllib2', 'xmlrpclib', 'lxml', 'lxml.etree', 'dns',
         'dns.resolver', 'http.client', 'urllib.request', 'xmlrpc.client', 'tpamtransport',
         'tpamclient', 'tpamhttp', 'tpamxml', 'sshkey')
# The shim of Python 3 has loaded some of them before the hook: there, what the plugin itself
# imports is looked at, too.
WATCHED = """
try:
    import builtins
except ImportError:
    import __builtin__ as builtins
before, imported, real = set(sys.modules), set(), builtins.__import__
def watch(name, *arguments, **options):
    importer = (arguments or (None,))[0] or options.get('globals') or {}
    if str(importer.get('__name__')).startswith(('main', 'tpam', 'sshkey')):
        imported.add(name)
    return real(name, *arguments, **options)
builtins.__import__ = watch
run_hook = sps_child.run_hook
def run_and_report(call):
    answer = run_hook(call)
    loaded = set(name for name in sys.modules if sys.modules[name] is not None) - before
    return dict(answer, loaded=sorted(loaded), imported=sorted(imported))
sps_child.run_hook = run_and_report
"""


def heavy_modules(played, tmpdir, hook):
    """The modules of HEAVY that a hook loads, beyond those that its interpreter has already."""
    result = hook_of(played, child(tmpdir, WATCHED), hook)
    assert not result.died, result.log
    assert 'tpamcall' in result.answer['loaded']
    return sorted(set(HEAVY) & set(result.answer['loaded'] + result.answer['imported']))


@pytest.mark.parametrize('trigger', ['session-ended', 'authentication-completed'])
@pytest.mark.parametrize('hook', NOTIFICATIONS)
def test_a_hook_that_checks_nothing_in_loads_nothing_of_the_wire(world, tmpdir, hook, trigger):
    played = world.session(check_in_trigger={'default': trigger}, check_in={'force_reset': 'yes'},
                           tpam={'authorization': 'request'})
    assert heavy_modules(played, tmpdir, hook) == []


@pytest.mark.parametrize('hook', sorted(GET_HOOKS) + list(NOTIFICATIONS))
def test_a_hook_under_a_wrong_configuration_loads_nothing_of_the_wire(world, tmpdir, hook):
    played = world.session(logging={'log_level': 'loud'})
    assert heavy_modules(played, tmpdir, hook) == []
    assert world.tpam.commands() == []


def test_a_hook_without_a_gateway_user_loads_nothing_of_the_wire(world, tmpdir):
    played = world.session({'gateway_username': None})
    assert heavy_modules(played, tmpdir, 'get_password_list') == []


def test_a_hook_that_asks_loads_what_it_takes_and_no_tables_of_keys(world, tmpdir):
    """The check above sees what is loaded."""
    found = heavy_modules(world.session(), tmpdir, 'get_password_list')
    assert set(['tpamclient', 'tpamtransport', 'tpamxml', 'ssl']) <= set(found)
    assert 'sshkey' not in found


# ---- tables, and what is written about them

def documentation(name):
    with io.open(os.path.join(ROOT, name), encoding='utf-8') as content:
        return content.read()


def tables_of_readme():
    """The names in the first column of each table of README.md."""
    tables = re.findall('(?m)(?:^\\|.*\n)+', documentation('README.md'))
    return [set(re.findall('(?m)^\\| *`([^`]+)` *\\|', table)) for table in tables]


def texts_of_default_cfg(option):
    """The words that are explained in the comment above an option in default.cfg."""
    before = documentation('default.cfg').partition('\n; %s=' % option)[0]
    comment = before.rpartition('\n\n')[2]
    return set(re.findall('(?m)^#   ([a-z]+)  +[a-z]', comment))


def choices(option):
    """The words that an option of [tpam] takes."""
    parse = tpamconfig.OPTIONS['tpam'][option][0]
    with pytest.raises(ValueError) as refusal:
        parse('no-such-choice')
    return set(re.sub('.*must be one of ', '', '%s' % refusal.value).split(', '))


@pytest.mark.parametrize('option, table', [
    ('system_name_resolver', tpamtarget.RESOLVERS), ('authorization', tpamauthorize.AUTHORIZATIONS)])
def test_a_table_of_functions_has_the_choices_of_its_option(option, table):
    assert choices(option) == set(table)
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize('option, table', [
    ('system_name_resolver', tpamtarget.RESOLVERS), ('authorization', tpamauthorize.AUTHORIZATIONS)])
def test_each_choice_of_a_table_is_explained(option, table):
    assert texts_of_default_cfg(option) == set(table)
    assert tables_of_readme().count(set(table)) == 1


def test_each_command_that_checks_in_has_its_function():
    assert set(tpamcheckout._CHECK_INS) == set(tpamcall.COMMANDS)


def test_each_hook_of_sps_is_a_function_and_a_method():
    hooks = set(GET_HOOKS) | set(NOTIFICATIONS)
    methods = set(name for name in vars(main.Plugin) if not name.startswith('_'))
    assert methods == hooks
    for name in hooks:
        function = getattr(main, name)
        assert inspect.isfunction(function)
        assert function.__name__ == name


def arguments_of(function):
    """{argument: whether it has a default} of a function of tpamclient.py."""
    arguments = [getattr(argument, 'arg', None) or argument.id for argument in function.args.args]
    required = len(arguments) - len(function.args.defaults)
    return dict((name, number >= required) for number, name in enumerate(arguments))


def test_each_command_says_whether_it_may_be_sent_twice():
    path = inspect.getsourcefile(tpamclient)
    with io.open(path, 'rb') as source:
        tree = ast.parse(source.read())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
             and isinstance(node.func, ast.Attribute) and node.func.attr == 'call'
             and isinstance(node.func.value, ast.Name) and node.func.value.id == 'self']
    unsaid = [node.lineno for node in calls
              if 'repeatable' not in [keyword.arg for keyword in node.keywords]]
    assert len(calls) >= 5
    assert unsaid == []
    call, = [node for node in ast.walk(tree)
             if isinstance(node, ast.FunctionDef) and node.name == 'call']
    assert arguments_of(call)['repeatable'] is False
