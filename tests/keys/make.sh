#!/bin/sh
# Makes the committed keys of this directory, none of which guards anything. Needs openssl 3, an ssh-keygen that still
# knows DSA (OpenSSH before 10) and puttygen 0.75 or newer. The tests make the rest for each run; here stand those that
# take long to make or that tools of today no longer make.
#   NAME.pem  traditional PEM    NAME.pkcs8  PKCS#8    NAME.openssh  OpenSSH's format    NAME.pub  public half
#   NAME.ppk  PuTTY's own format    NAME.putty, NAME.putty-pem  OpenSSH's format and traditional PEM written by PuTTY
set -e
umask 077
cd "$(dirname "$0")"
rm -f rsa-* dsa-*
params=$(mktemp)
trap 'rm -f "$params"' EXIT

as_openssh() {
    cp "$1.pem" "$1.openssh"
    ssh-keygen -q -p -P '' -N '' -f "$1.openssh" > /dev/null
    ssh-keygen -y -f "$1.openssh" > "$1.pub"
}

openssl genrsa -traditional -out rsa-3072.pem 3072
as_openssh rsa-3072
ssh-keygen -q -t rsa -b 4096 -m PEM -N '' -f rsa-4096.pem
rm rsa-4096.pem.pub
as_openssh rsa-4096

for size in 1024-160 2048-224 2048-256 3072-256; do  # bits of p and of q
    openssl genpkey -quiet -genparam -algorithm DSA -pkeyopt "dsa_paramgen_bits:${size%-*}" \
        -pkeyopt "dsa_paramgen_q_bits:${size#*-}" > "$params"
    openssl genpkey -paramfile "$params" -out "dsa-$size.pkcs8"
    openssl pkey -in "dsa-$size.pkcs8" -traditional -out "dsa-$size.pem"
    as_openssh "dsa-$size"
done

for name in rsa-3072 dsa-1024-160; do
    puttygen "$name.pem" -O private --ppk-param version=2 -o "$name.ppk"
    puttygen "$name.ppk" -O private-openssh-new -o "$name.putty"
    puttygen "$name.ppk" -O private-openssh -o "$name.putty-pem"
done
puttygen rsa-4096.pem -O private --ppk-param version=3 -o rsa-4096.ppk
