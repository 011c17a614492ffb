//! Which identities a node is not given, however they are written.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

use super::lab::{Lab, WEB, asking, asking_for, authorize};

#[tokio::test]
async fn node_gets_no_identity_but_those_of_its_enrolled_workloads() {
    let lab = Lab::new().await;
    for (identity, rule) in [
        ("spiffe://td/ns/default/sa/db", "not_on_node"),
        ("spiffe://td/ns/default/sa/idle", "not_on_node"),
        ("spiffe://td/ns/default/sa/nobody", "not_on_node"),
        ("spiffe://other/ns/default/sa/web", "foreign_trust_domain"),
        ("spiffe://td/ns/culvert-system/sa/culvert-ca", "reserved_identity"),
    ] {
        let mut request = lab.good();
        request.get_mut().metadata = Some(asking_for(identity));
        lab.refused(request, Code::Unauthenticated, rule).await;
    }
    let mut request = lab.good();
    authorize(&mut request, &lab.node_token("node2"));
    lab.refused(request, Code::Unauthenticated, "not_on_node").await;
    assert_eq!(lab.audit.all().iter().filter(|line| line["node"] == "node2").count(), 1);
}

#[tokio::test]
async fn identities_in_another_form_are_refused() {
    let lab = Lab::new().await;
    let long = format!("spiffe://td/ns/default/sa/{}", "w".repeat(3000));
    for identity in [
        "spiffe://td/ns/default/sa/web,spiffe://td/ns/default/sa/db",
        "spiffe://td/ns/default/sa/web\n",
        "spiffe://td/ns/default/sa/web\r\nspiffe://td/ns/default/sa/db",
        "spiffe://td/ns/default/sa/web\0",
        "spiffe://td/ns/default/sa/web%00",
        "spiffe://td/ns/default%2Fsa/web",
        "spiffe://td/ns/default/../default/sa/web",
        "spiffe://td/ns/./default/sa/web",
        "spiffe://td/ns/../sa/web",
        "spiffe://td/ns//sa/web",
        "spiffe://td//ns/default/sa/web",
        "spiffe://TD/ns/default/sa/web",
        "SPIFFE://td/ns/default/sa/web",
        "spiffe://td/ns/Default/sa/web",
        "spiffe://td/ns/default/sa/Web",
        "spiffe://td:1/ns/default/sa/web",
        "spiffe://u@td/ns/default/sa/web",
        "spiffe://td/ns/default/sa/web?x",
        "spiffe://td/ns/default/sa/web#x",
        "spiffe://td/ns/default/sa/web/",
        "spiffe://td/ns/default/sa/web/x",
        "spiffe://td/sa/web/ns/default",
        "spiffe://td",
        "https://td/ns/default/sa/web",
        " spiffe://td/ns/default/sa/web",
        "spiffe://td/ns/default/sa/wéb",
        "spiffe://td/ns/default/sa/web\u{202e}",
        "default/web",
        "",
        &long,
    ] {
        let mut request = lab.good();
        request.get_mut().metadata = Some(asking_for(identity));
        lab.refused(request, Code::Unauthenticated, "malformed_identity").await;
    }
}

#[tokio::test]
async fn identity_that_is_no_text_is_refused() {
    let lab = Lab::new().await;
    let text = || Value { kind: Some(Kind::StringValue(WEB.to_owned())) };
    for kind in [
        Kind::NumberValue(1.0),
        Kind::NumberValue(f64::NAN),
        Kind::BoolValue(true),
        Kind::NullValue(0),
        Kind::ListValue(ListValue { values: vec![text()] }),
        Kind::StructValue(Struct { fields: [("x".to_owned(), text())].into() }),
    ] {
        let mut request = lab.good();
        request.get_mut().metadata = Some(asking(kind));
        lab.refused(request, Code::Unauthenticated, "malformed_identity").await;
    }
    let mut request = lab.good();
    request.get_mut().metadata =
        Some(Struct { fields: [("ImpersonatedIdentity".to_owned(), Value::default())].into() });
    lab.refused(request, Code::Unauthenticated, "malformed_identity").await;
    // A node has no identity of its own to fall back to.
    for metadata in [None, Some(Struct::default())] {
        let mut request = lab.good();
        request.get_mut().metadata = metadata;
        lab.refused(request, Code::Unauthenticated, "no_identity").await;
    }
}

#[tokio::test]
async fn metadata_and_headers_that_are_not_known_are_passed_over() {
    let lab = Lab::new().await;
    let mut request = lab.good();
    let metadata = request.get_mut().metadata.as_mut().unwrap();
    let mut nested = Value { kind: Some(Kind::StringValue("deep".to_owned())) };
    for _ in 0..10 {
        nested = Value { kind: Some(Kind::ListValue(ListValue { values: vec![nested] })) };
    }
    for (key, value) in [("WorkloadName", "x"), ("ClusterID", "Kubernetes"), ("CertSigner", "y")] {
        let value = Value { kind: Some(Kind::StringValue(value.to_owned())) };
        metadata.fields.insert(key.to_owned(), value);
    }
    metadata.fields.insert("nested".to_owned(), nested);
    // Of another spelling, so another key.
    let other = Value { kind: Some(Kind::StringValue("spiffe://td/ns/default/sa/db".to_owned())) };
    metadata.fields.insert("impersonatedIdentity".to_owned(), other);
    for id in ["Kubernetes", "other"] {
        request.metadata_mut().append("clusterid", id.parse().unwrap());
    }
    lab.send(request).await.unwrap();
    assert_eq!(lab.audit.last()["identity"], WEB);
    lab.serves().await;
}
