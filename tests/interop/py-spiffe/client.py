"""A workload that uses `spiffe` from PyPI, unchanged, against the agent's Workload API.

    client.py fetch AUDIENCE    everything once, verified with the library; one JSON line
    client.py watch             one JSON line for each certificate pushed, until it is ended

The socket comes from SPIFFE_ENDPOINT_SOCKET, as for any workload.
"""

import json
import sys
import threading

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtSvid, WorkloadApiClient

TIMEOUT = 20


def tell(**line):
    print(json.dumps(line), flush=True)


def verify_chain(chain, roots):
    """Signatures from the leaf to one of the roots; the library itself does not look at them."""
    for certificate, issuer in zip(chain, chain[1:]):
        certificate.verify_directly_issued_by(issuer)
    top = chain[-1]
    assert any(issued_by(top, root) for root in roots), "chain ends at no root"


def issued_by(certificate, root):
    try:
        certificate.verify_directly_issued_by(root)
    except Exception:  # of several roots at most one signed it
        return False
    return True


def public(key):
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form)


def fetch(audience):
    with WorkloadApiClient() as client:
        context = client.fetch_x509_context(timeout=TIMEOUT)
        svid = context.default_svid
        domain = svid.spiffe_id.trust_domain
        own = context.x509_bundle_set.get_bundle_for_trust_domain(domain)
        verify_chain(svid.cert_chain, own.x509_authorities)
        assert isinstance(svid.private_key, ec.EllipticCurvePrivateKey)
        assert public(svid.private_key.public_key()) == public(svid.leaf.public_key())
        alone = client.fetch_x509_bundles(timeout=TIMEOUT).get_bundle_for_trust_domain(domain)
        assert alone.x509_authorities == own.x509_authorities, "bundles differ"

        token = client.fetch_jwt_svid({audience}, timeout=TIMEOUT)
        keys = client.fetch_jwt_bundles(timeout=TIMEOUT).get_bundle_for_trust_domain(domain)
        parsed = JwtSvid.parse_and_validate(token.token, keys, {audience})
        validated = client.validate_jwt_svid(token.token, audience, timeout=TIMEOUT)
        assert parsed.spiffe_id == validated.spiffe_id == svid.spiffe_id
        try:
            client.validate_jwt_svid(token.token, audience + "-other", timeout=TIMEOUT)
        except Exception:
            pass
        else:
            raise AssertionError("token holds for another audience")
        tell(
            id=str(svid.spiffe_id),
            serial=format(svid.leaf.serial_number, "x"),
            chain=len(svid.cert_chain) + 1,
            expiry=parsed.expiry,
        )


def watch():
    ended = threading.Event()

    def update(context):
        svid = context.default_svid
        tell(id=str(svid.spiffe_id), serial=format(svid.leaf.serial_number, "x"))

    def failed(error):
        tell(error=repr(error))
        ended.set()

    with WorkloadApiClient() as client:
        client.stream_x509_contexts(update, failed)
        ended.wait()


def main():
    match sys.argv[1:]:
        case ["fetch", audience]:
            fetch(audience)
        case ["watch"]:
            watch()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        tell(error=repr(error))
        sys.exit(1)
