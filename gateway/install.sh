#!/bin/sh
# Install the gateway on a Linux machine with systemd and Python 3.9 or later; run it as root.
#   install.sh         installs or updates the program; the configuration is left alone
#   install.sh start   checks the configuration as the user of the service, and starts the service
set -eu
umask 022  # the service's user must be able to read the program
HERE=$(dirname "$0")
PROGRAM=/opt/tpam-gateway
CONFIG=/etc/tpam-gateway
PYTHON="$PROGRAM/venv/bin/python"

if [ "${1:-}" = start ]; then
    runuser -u tpam-gateway -- "$PYTHON" -B "$PROGRAM/tpam_gateway.py" check --config "$CONFIG/gateway.toml"
    systemctl enable tpam-gateway
    systemctl restart tpam-gateway
    sleep 2
    exec systemctl --no-pager status tpam-gateway
fi

python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' ||
    { echo 'Python 3.9 or later with venv is needed (Debian: python3-venv)' >&2; exit 1; }
id tpam-gateway >/dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tpam-gateway
install -d "$PROGRAM"
install -d -m 750 -o root -g tpam-gateway "$CONFIG"
install -d -o tpam-gateway -g tpam-gateway /var/log/tpam-gateway  # for the check before the first start
[ -x "$PYTHON" ] || python3 -m venv "$PROGRAM/venv"
"$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade --requirement "$HERE/requirements.txt"
install -m 644 "$HERE"/*.py "$PROGRAM"
install -m 644 "$HERE/tpam-gateway.service" /etc/systemd/system
[ -e "$CONFIG/gateway.toml" ] ||
    install -m 640 -o root -g tpam-gateway "$HERE/sample.toml" "$CONFIG/gateway.toml"
systemctl daemon-reload
echo "Installed. Edit $CONFIG/gateway.toml, put the keys and the certificate beside it, then: $0 start"
