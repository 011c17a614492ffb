//! Requests made by openssl: the kinds of key that we take, and those that we do not.

use crate::authority::{Authority, WEB};
use crate::openssl::{new_key, openssl, request, shown};
use std::fs;
use tonic::Code;

#[test]
fn requests_of_openssl_with_every_kind_of_key_are_answered() {
    let authority = Authority::start().unwrap();
    let folder = authority.folder();
    let san = format!("subjectAltName=URI:{WEB}");
    for (kind, usage) in [
        (["EC", "ec_paramgen_curve:P-256"], "Digital Signature\n"),
        (["EC", "ec_paramgen_curve:P-384"], "Digital Signature\n"),
        (["RSA", "rsa_keygen_bits:2048"], "Digital Signature, Key Encipherment\n"),
        (["RSA", "rsa_keygen_bits:3072"], "Digital Signature, Key Encipherment\n"),
        (["RSA", "rsa_keygen_bits:4096"], "Digital Signature, Key Encipherment\n"),
    ] {
        let key = folder.join("request-key.pem");
        new_key(&key, &kind).unwrap();
        let key_text = key.display().to_string();
        let public = openssl(["pkey", "-pubout", "-in", &key_text]).unwrap();
        // With the name that is asked for, and with none.
        for more in [&["-addext", &*san][..], &[]] {
            let chain = authority.issue(&request(&key, more).unwrap());
            let chain = chain.unwrap_or_else(|code| panic!("{kind:?} {more:?}: {code}"));
            let [leaf, issuing] =
                ["request-leaf.pem", "request-issuing.pem"].map(|n| folder.join(n));
            fs::write(&leaf, &chain[0]).unwrap();
            fs::write(&issuing, &chain[1]).unwrap();
            assert_eq!(shown(&leaf, &["-pubkey"]).unwrap(), public, "{kind:?}");
            assert!(shown(&leaf, &["-ext", "keyUsage"]).unwrap().ends_with(usage), "{kind:?}");
            // Nothing of the request but its key: not the subject that it asked for.
            assert_eq!(shown(&leaf, &["-subject"]).unwrap().trim(), "subject=");
            let [root, leaf, issuing] =
                [authority.root(), leaf, issuing].map(|path| path.display().to_string());
            let words = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", &root];
            openssl(words.iter().chain(&["-untrusted", &issuing, &leaf])).unwrap();
        }
    }
}

#[test]
fn requests_of_openssl_with_other_keys_or_wishes_are_refused() {
    let authority = Authority::start().unwrap();
    let key = authority.folder().join("refused-key.pem");
    for kind in [
        &["RSA", "rsa_keygen_bits:1024"][..],
        &["RSA", "rsa_keygen_bits:2048", "rsa_keygen_pubexp:3"],
        &["EC", "ec_paramgen_curve:P-521"],
        &["EC", "ec_paramgen_curve:secp256k1"],
        &["ED25519"],
    ] {
        new_key(&key, kind).unwrap();
        let refused = authority.issue(&request(&key, &[]).unwrap());
        assert_eq!(refused, Err(Code::InvalidArgument), "{kind:?}");
    }
    new_key(&key, &["EC", "ec_paramgen_curve:P-256"]).unwrap();
    for wish in [
        "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/db",
        "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/web,DNS:web",
        "basicConstraints=critical,CA:TRUE",
    ] {
        let refused = authority.issue(&request(&key, &["-addext", wish]).unwrap());
        assert_eq!(refused, Err(Code::InvalidArgument), "{wish}");
    }
    // The same key with a modest request is taken: it was the wish.
    authority.issue(&request(&key, &[]).unwrap()).unwrap();
}
