use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;

fn service(value: &Value) -> Option<ServiceRow> {
    service_row(&serde_json::from_value(value.clone()).unwrap())
}

fn web() -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    })
}

fn slice(name: &str, service: &str, endpoints: &Value) -> (WorkloadKey, Option<SliceRow>) {
    let value = json!({
        "metadata": {
            "namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    let row = slice_row(&serde_json::from_value(value).unwrap(), "node1");
    (WorkloadKey::new("shop", name), row)
}

fn key() -> WorkloadKey {
    WorkloadKey::new("shop", "web")
}

/// What stands behind port 80 of an address: address, distance and condition of each endpoint.
fn behind(directory: &mut Directory, address: &str) -> Vec<String> {
    let services = directory.services();
    let Some(service) = services.by_address(address.parse().unwrap()) else { return Vec::new() };
    let of_port = service.ports[&80].iter();
    of_port.map(|e| format!("{} {:?} {:?}", e.address, e.distance, e.condition)).collect()
}

#[test]
fn only_services_with_a_cluster_address_and_a_tcp_port_count() {
    assert!(service(&web()).is_some());
    let with = |more: Value| service(&crate::workload::kubernetes::testing::with(web(), &more));
    assert_eq!(with(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})), None);
    assert_eq!(with(json!({"spec": {"type": "ExternalName"}})), None);
    assert_eq!(with(json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}]}})), None);
    assert_eq!(with(json!({"spec": {"ports": null}})).map(|_| ()), None);
    // As an API server before dual stack has it.
    let old = with(json!({"spec": {"clusterIPs": null}})).unwrap();
    assert_eq!(old.addresses, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn endpoints_of_all_slices_stand_behind_each_address_of_their_family() {
    let mut directory = Directory::default();
    directory.set_own_zone(Some("z1"));
    directory.take_service(Event::Apply((key(), service(&web()))));
    assert!(behind(&mut directory, "10.96.0.1").is_empty());
    directory.take_slice(Event::Apply(slice("web-1", "web", &json!([
        {"addresses": ["10.0.0.2"], "nodeName": "node1", "zone": "z1"},
        {"addresses": ["10.0.0.3"], "nodeName": "node2", "zone": "z1", "conditions": {"ready": true}},
        {"addresses": ["10.0.0.4"], "nodeName": "node3", "zone": "z2",
         "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": false}},
        {"addresses": ["no address"]},
        {"addresses": []},
    ]))));
    directory.take_slice(Event::Apply(slice(
        "web-2",
        "web",
        &json!([{"addresses": ["10.0.0.6"]}]),
    )));
    directory.take_slice(Event::Apply(slice("v6", "web", &json!([{"addresses": ["fd00::2"]}]))));
    directory.take_slice(Event::Apply(slice("other", "db", &json!([{"addresses": ["10.0.0.7"]}]))));
    assert_eq!(
        behind(&mut directory, "10.96.0.1"),
        [
            "10.0.0.2:8080 Node Ready",
            "10.0.0.3:8080 Zone Ready",
            "10.0.0.4:8080 Elsewhere Ending",
            "10.0.0.6:8080 Elsewhere Ready",
        ]
    );
    assert_eq!(behind(&mut directory, "fd00::1"), ["[fd00::2]:8080 Elsewhere Ready"]);
    directory.set_own_zone(Some("z2"));
    assert!(behind(&mut directory, "10.96.0.1").contains(&"10.0.0.4:8080 Zone Ending".to_owned()));
}

#[test]
fn slices_that_change_or_go_take_their_endpoints_along() {
    let mut directory = Directory::default();
    directory.take_service(Event::Apply((key(), service(&web()))));
    let one = |ip: &str| json!([{"addresses": [ip]}]);
    directory.take_slice(Event::Apply(slice("a", "web", &one("10.0.0.2"))));
    directory.take_slice(Event::Apply(slice("b", "web", &one("10.0.0.3"))));
    assert_eq!(behind(&mut directory, "10.96.0.1").len(), 2);
    let before = directory.services();
    assert!(Arc::ptr_eq(&before, &directory.services()), "nothing has changed");
    // It is another Service's now.
    directory.take_slice(Event::Apply(slice("a", "db", &one("10.0.0.2"))));
    assert_eq!(behind(&mut directory, "10.96.0.1"), ["10.0.0.3:8080 Elsewhere Ready"]);
    directory.take_slice(Event::Delete(slice("b", "web", &json!([]))));
    assert_eq!(behind(&mut directory, "10.96.0.1"), [""; 0]);
    directory.take_service(Event::Delete((key(), None)));
    assert!(directory.services().is_empty());
}

#[test]
fn a_slice_that_comes_before_its_service_is_not_lost() {
    let mut directory = Directory::default();
    directory.take_slice(Event::Apply(slice("a", "web", &json!([{"addresses": ["10.0.0.2"]}]))));
    assert!(directory.services().is_empty());
    directory.take_service(Event::Apply((key(), service(&web()))));
    assert_eq!(behind(&mut directory, "10.96.0.1").len(), 1);
}
