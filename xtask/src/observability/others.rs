//! What dashboards and tools of others ask, which know nothing of Culvert: Istio's dashboards and
//! Kiali. Written anew from the labels that they use; what is held is that our metrics have them.

use super::{Ask, Query};

/// The labels by which Kiali draws its graph.
const GRAPH: &str = "source_cluster,source_workload_namespace,source_workload,\
                     source_canonical_service,source_canonical_revision,destination_cluster,\
                     destination_service_namespace,destination_service,destination_service_name,\
                     destination_workload_namespace,destination_workload,\
                     destination_canonical_service,destination_canonical_revision";

/// All of them.
pub(super) fn all() -> Vec<Query> {
    kiali().into_iter().chain(istio()).map(|(place, asked)| query(place, asked)).collect()
}

fn query(place: &str, asked: String) -> Query {
    Query { place: place.to_owned(), ask: Ask::Value(asked) }
}

fn kiali() -> Vec<(&'static str, String)> {
    let mut queries = Vec::new();
    for reporter in ["source", "destination"] {
        for metric in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
            let selector =
                format!("{metric}{{reporter=\"{reporter}\",source_workload!=\"unknown\"}}");
            queries.push((
                "Kiali, graph of TCP",
                format!("sum(rate({selector}[60s])) by ({GRAPH},response_flags) > 0"),
            ));
        }
    }
    for reporter in ["source", "destination"] {
        queries.push((
            "Kiali, graph of requests",
            format!(
                "sum(rate(istio_requests_total{{reporter=\"{reporter}\"}}[60s])) by ({GRAPH},\
                 request_protocol,response_code,grpc_response_status,response_flags) > 0"
            ),
        ));
    }
    queries.push((
        "Kiali, response times",
        "histogram_quantile(0.95, sum(rate(istio_request_duration_milliseconds_bucket\
         {reporter=\"destination\",destination_workload=\"b1\"}[60s])) by (le,\
         source_workload,source_workload_namespace,request_protocol))"
            .to_owned(),
    ));
    queries.push((
        "Kiali, locks of edges",
        format!(
            "sum(rate(istio_tcp_connections_opened_total{{reporter=\"destination\",\
             connection_security_policy=\"mutual_tls\"}}[60s])) by ({GRAPH},\
             connection_security_policy,source_principal,destination_principal) > 0"
        ),
    ));
    queries
}

fn istio() -> Vec<(&'static str, String)> {
    let b1 = "reporter=~\"source|destination\",connection_security_policy=\"mutual_tls\",\
              destination_workload=~\"b1\",destination_workload_namespace=~\"default\"";
    let workload = "sum by (source_workload, source_workload_namespace) (round(sum(irate(";
    let from = "[5m])) by (source_workload, source_workload_namespace), 0.001))";
    vec![
        (
            "Istio, workload: incoming connections",
            format!("{workload}istio_tcp_connections_opened_total{{{b1}}}{from}"),
        ),
        (
            "Istio, workload: bytes received",
            format!("{workload}istio_tcp_received_bytes_total{{{b1}}}{from}"),
        ),
        (
            "Istio, mesh: success rate",
            "sum(rate(istio_requests_total{reporter=~\"source|destination\",\
             response_code!~\"5.*\"}[1m])) / sum(rate(istio_requests_total\
             {reporter=~\"source|destination\"}[1m]))"
                .to_owned(),
        ),
        (
            "Istio, workload: request duration",
            format!(
                "histogram_quantile(0.99, sum(irate(istio_request_duration_milliseconds_bucket\
                 {{{b1}}}[1m])) by (le)) / 1000"
            ),
        ),
        (
            "Istio, workload: requests by answer",
            format!(
                "round(sum(irate(istio_requests_total{{{b1}}}[5m])) by (response_code), 0.001)"
            ),
        ),
        (
            "Istio, ztunnel: connections",
            "sum(rate(istio_tcp_connections_opened_total[5m])) \
             - sum(rate(istio_tcp_connections_closed_total[5m]))"
                .to_owned(),
        ),
        (
            "Istio, mesh: TCP workloads",
            "label_join(sum(rate(istio_tcp_received_bytes_total{reporter=~\"source\"}[1m])) by \
             (destination_workload, destination_workload_namespace, destination_service), \
             \"destination_workload_var\", \".\", \"destination_workload\", \
             \"destination_workload_namespace\") != 0"
                .to_owned(),
        ),
    ]
}
