use super::*;

fn parse(text: &str) -> Result<Config, YamlError> {
    Config::parse(Path::new("/etc/culvert/agent.yaml"), text)
}

fn error(text: &str) -> String {
    parse(text).expect_err("the file is wrong").to_string()
}

#[test]
fn a_node_name_is_enough() {
    let config = parse("node: node1\n").unwrap();
    assert_eq!(config.trust_domain.as_str(), "cluster.local");
    assert_eq!(config.workloads.as_deref(), Some(Path::new("/etc/culvert/workloads.yaml")));
    assert_eq!(config.kubernetes, None);
    assert_eq!(config.policies, None);
    assert_eq!(config.mesh.ranges.len(), 2);
    assert_eq!(config.ca.token_file, Path::new("/etc/culvert/node1.token"));
    assert_eq!(config.ca.certificate_ttl, Duration::from_hours(24));
    assert_eq!(config.capture.when_agent_down, WhenAgentDown::Refuse);
    assert_eq!(config.tunnel.workers, None);
    assert!(config.tunnel.worker_count().get() >= 1);
    assert_eq!(config.observe.metrics.to_string(), "0.0.0.0:15020");
}

#[test]
fn every_field_is_read() {
    let config = parse(
        "node: node1
trustDomain: example.org
workloads: /srv/workloads.yaml
policies: ../policies.yaml
mesh:
  rootNamespace: mesh-root
  ranges: [\"10.0.0.0/8\", \"fd00::/8\"]
ca:
  address: \"[fd00::1]:15012\"
  rootFile: root.pem
  tokenFile: t
  certificateTtl: 20s
capture:
  cgroup: /sys/fs/cgroup/kubepods
  pinDirectory: /sys/fs/bpf/other
  whenAgentDown: pass
tunnel:
  workers: 2
  drainTimeout: 250ms
workloadApi: {socket: api/api.sock}
cni: {socket: cni.sock}
observe:
  metrics: 127.0.0.1:0
  readiness: \"[::]:15021\"
  log: warn,culvert_agent=debug
  logFormat: json
  accessLog: false
  http: false
  httpExceptPorts: [443, 5432]
  traces: {endpoint: \"http://collector:4317/\", sampleRatio: 0.25}
  cluster: east-1
  maxSeries: 500
admin:
  socket: a.sock
  listen: \"[::1]:15000\"
  quit: true
",
    )
    .unwrap();
    assert_eq!(config.workloads.as_deref(), Some(Path::new("/srv/workloads.yaml")));
    assert_eq!(config.admin.socket, Path::new("/etc/culvert/a.sock"));
    assert_eq!(config.admin.listen, Some("[::1]:15000".parse().unwrap()));
    assert!(config.admin.quit);
    assert_eq!(config.policies.as_deref(), Some(Path::new("/etc/culvert/../policies.yaml")));
    assert_eq!(config.ca.address.host(), "fd00::1");
    assert_eq!(config.ca.certificate_ttl, Duration::from_secs(20));
    assert_eq!(config.tunnel.workers.map(NonZeroUsize::get), Some(2));
    assert_eq!(config.tunnel.drain_timeout, Duration::from_millis(250));
    let socket = config.workload_api.as_ref().map(|api| api.socket.as_path());
    assert_eq!(socket, Some(Path::new("/etc/culvert/api/api.sock")));
    let socket = config.cni.as_ref().map(|cni| cni.socket.as_path());
    assert_eq!(socket, Some(Path::new("/etc/culvert/cni.sock")));
    assert_eq!(config.observe.log_format, LogFormat::Json);
    assert!(!config.observe.access_log.enabled && !config.observe.http);
    assert_eq!(config.observe.http_except_ports, [443, 5432]);
    let traces = config.observe.traces.as_ref().unwrap();
    assert_eq!(traces.endpoint.to_string(), "collector:4317");
    assert_eq!(traces.sample_ratio.millionths(), 250_000);
    assert_eq!(config.observe.cluster.as_deref(), Some("east-1"));
    assert_eq!(config.observe.max_series, 500);
}

#[test]
fn admin_server_is_for_the_loopback_only() {
    for (address, says) in [
        ("0.0.0.0:15000", "`0.0.0.0:15000` can be reached from elsewhere"),
        ("15000", "`15000` is no address to listen on; expected off, or such as"),
    ] {
        let refused = parse(&format!("node: a\nadmin: {{listen: \"{address}\"}}\n")).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let listen = parse("node: a\n").unwrap().admin.listen;
    assert_eq!(listen, Some("127.0.0.1:15000".parse().unwrap()));
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let config = parse(
        "node: node1\npolicies: p.yaml\ntunnel: {drainTimeout: 90s}\nworkloadApi: {socket: /a/b}\n\
         capture: {hostProc: /host/proc, cgroup: /host/sys/fs/cgroup}\n\
         removal: {namespace: culvert-system, daemonSet: culvert-agent}\ncni: {}\n\
         observe: {traces: {endpoint: \"[::1]:4317\", sampleRatio: 0.000001}}\n\
         admin: {listen: off}\n",
    )
    .unwrap();
    assert_eq!(config.admin.listen, None);
    let printed = config.print().unwrap();
    assert_eq!(parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")), config);
}

#[test]
fn errors_name_the_place_the_field_and_what_was_expected() {
    let cases = [
        (
            "nod: node1\n",
            "/etc/culvert/agent.yaml:1:1: unknown field `nod`; expected one of `node`, \
             `trustDomain`, `workloads`, `policies`, `kubernetes`, `mesh`, `ca`, `capture`, \
             `tunnel`, `workloadApi`, `removal`, `cni`, `observe`, `admin`",
        ),
        (
            "trustDomain: a.b\n",
            "/etc/culvert/agent.yaml:1:1: field `node` is missing; write it here, or set \
             CULVERT_NODE in the environment",
        ),
        (
            "node: a\ncapture:\n  hostProc: /host/proc\n",
            "/etc/culvert/agent.yaml:3:13: `capture.hostProc`: there is no `capture.cgroup` beside \
             it; expected both: a container's own cgroup tree holds no pods but itself",
        ),
        (
            "node: a\nobserve: {traces: {endpoint: a:1, sampleRatio: 1.5}}\n",
            "/etc/culvert/agent.yaml:2:48: `observe.traces.sampleRatio`: 1.5 is no share; expected \
             0 to 1",
        ),
        (
            "node: a\nobserve: {httpExceptPorts: [80, 65536]}\n",
            "/etc/culvert/agent.yaml:2:33: `observe.httpExceptPorts`: 65536 is no port; expected 1 \
             to 65535",
        ),
        (
            "node: a\nnode: b\n",
            "/etc/culvert/agent.yaml:2:1: field `node` is given twice; keep one of them",
        ),
        (
            "node: Node_1\n",
            "/etc/culvert/agent.yaml:1:7: `node`: `Node_1` is no name; expected the name of this \
             node in the workloads file: lower-case letters, digits, `-` and `.`",
        ),
        (
            "node: a\nca:\n  certificateTtl: 24 hours\n",
            "/etc/culvert/agent.yaml:3:19: `ca.certificateTtl`: `24 hours` is no duration; \
             expected a whole number and a unit: 250ms, 30s, 10m, 24h, 7d",
        ),
        (
            "node: a\nca:\n  certificateTtl: 1s\n",
            "/etc/culvert/agent.yaml:3:19: `ca.certificateTtl`: 1s is out of range; expected 10s \
             to 90d",
        ),
        (
            "node: a\nca:\n  address: 10.0.0.1\n",
            "/etc/culvert/agent.yaml:3:12: `ca.address`: `10.0.0.1` is no host and port; expected \
             such as 10.0.0.1:15012, [fd00::1]:15012 or ca.example:15012",
        ),
        (
            "node: a\nmesh:\n  ranges:\n    - 10.0.0.1/8\n",
            "/etc/culvert/agent.yaml:4:7: `mesh.ranges`: `10.0.0.1/8` has bits set; expected an \
             address and a prefix length with no bit set behind it, such as 10.0.0.0/8 or fd00::/8",
        ),
        (
            "node: a\ncapture:\n  whenAgentDown: open\n",
            "/etc/culvert/agent.yaml:3:18: `capture.whenAgentDown`: unknown value `open`; expected \
             one of `refuse`, `pass`",
        ),
        (
            "node: a\ntunnel: {streamWindow: 10}\n",
            "/etc/culvert/agent.yaml:2:24: `tunnel.streamWindow`: 10 is out of range; expected \
             65535 to 67108864",
        ),
        (
            "node: a\ntunnel: {workers: 5000}\n",
            "/etc/culvert/agent.yaml:2:19: `tunnel.workers`: 5000 is out of range; expected 0 for \
             one a core, or 1 to 1024",
        ),
        (
            "node: a\nobserve:\n  metrics: 15020\n",
            "/etc/culvert/agent.yaml:3:12: `observe.metrics`: `15020` is no address to listen on; \
             expected such as 0.0.0.0:15020, 127.0.0.1:15020 or [::]:15020",
        ),
        (
            "node: a\nobserve:\n  tracing: x\n",
            "/etc/culvert/agent.yaml:3:3: unknown field `tracing`; expected one of `metrics`, \
             `readiness`, `log`, `logFormat`, `accessLog`, `events`, `http`, `traces`, \
             `httpExceptPorts`, `cluster`, `maxSeries`",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected);
    }
}

#[test]
fn values_of_the_wrong_type_name_their_field() {
    for (text, start) in [
        ("node: a\ntunnel:\n  workers: many\n", "/etc/culvert/agent.yaml:3:12: `tunnel.workers`: "),
        ("node: a\nca: []\n", "/etc/culvert/agent.yaml:2:5: `ca`: "),
        (
            "node: a\nobserve:\n  accessLog: {sample: 1.5}\n",
            "/etc/culvert/agent.yaml:3:23: `observe.accessLog.sample`: 1.5 is no share; expected 0 \
             to 1, such as 0.01 for one in a hundred",
        ),
        (
            "node: a\nobserve:\n  cluster: a b\n",
            "/etc/culvert/agent.yaml:3:12: `observe.cluster`: `a b` is no name of a cluster; \
             expected 1 to 63 letters, without spaces",
        ),
        (
            "node: a\nobserve:\n  maxSeries: 0\n",
            "/etc/culvert/agent.yaml:3:14: `observe.maxSeries`: 0 is out of range; expected 1 to \
             10000000",
        ),
        (
            "node: a\nobserve:\n  accessLog: 7\n",
            "/etc/culvert/agent.yaml:3:3: `observe.accessLog`: found integer `7`, expected true, ",
        ),
        ("node: [a\n", "/etc/culvert/agent.yaml:"),
    ] {
        let error = error(text);
        assert!(error.starts_with(start), "{error}");
        println!("{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/agent.yaml")).expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "cannot read /nonexistent/agent.yaml; name an existing file with --config"
    );
}

#[test]
fn durations_print_as_they_are_written() {
    for text in ["250ms", "30s", "10m", "24m", "36h", "7d", "0s"] {
        let duration: HumanDuration = text.parse().unwrap();
        assert_eq!(duration.to_string(), text);
    }
    for text in ["", "s", "10", "-1s", "1.5h", "1h30m", "99999999999999999999s", "30 s"] {
        assert!(text.parse::<HumanDuration>().is_err(), "{text}");
    }
}

#[test]
fn a_socket_that_the_kernel_would_cut_is_refused() {
    let text = format!("node: n\nadmin:\n  socket: /{}\n", "s".repeat(103));
    let error = error(&text);
    assert!(error.contains("3:11") && error.contains("at most 103 bytes"), "{error}");
    parse(&text.replace("/s", "/")).unwrap();
}

#[test]
fn environment_names_the_node_before_the_file() {
    let parse = |text: &str, node: &str| {
        Config::parse_with(Path::new("/etc/culvert/agent.yaml"), text, Some(node.to_owned()))
    };
    assert_eq!(parse("node: of-the-file\n", "worker-1").unwrap().node, "worker-1");
    let config = parse("trustDomain: a.b\n", "worker-1").unwrap();
    assert_eq!(config.ca.token_file, Path::new("/etc/culvert/worker-1.token"));
    let error = parse("node: n\n", "Worker 1").unwrap_err().to_string();
    assert!(error.contains("`CULVERT_NODE`: `Worker 1` is no name"), "{error}");
}

#[test]
fn a_cluster_stands_in_the_place_of_files() {
    let text = "node: n\nkubernetes:\n  kubeconfig: c\n  podRanges: [10.244.0.0/16]\n";
    let config = parse(text).unwrap();
    let cluster = config.kubernetes.as_ref().unwrap();
    assert_eq!(cluster.kubeconfig.as_deref(), Some(Path::new("/etc/culvert/c")));
    assert_eq!(cluster.netns_directory, Path::new("/run/netns"));
    assert_eq!(cluster.pod_ranges.len(), 1);
    assert_eq!(config.workloads, None);
    let printed = config.print().unwrap();
    assert_eq!(parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")), config);

    let in_pod = parse("node: n\nkubernetes: {}\n").unwrap().kubernetes.unwrap();
    assert_eq!((in_pod.kubeconfig, in_pod.pod_ranges), (None, Vec::new()));
    for field in ["workloads", "policies"] {
        assert_eq!(
            error(&format!("node: n\nkubernetes: {{}}\n{field}: x.yaml\n")),
            format!(
                "/etc/culvert/agent.yaml:3:{}: `{field}`: stands beside `kubernetes`; expected \
                 one of the two",
                field.len() + 3
            )
        );
    }
}

#[test]
fn access_log_is_one_word_or_a_mapping() {
    let access = |text: &str| {
        let config = parse(&format!("node: a\nobserve:\n  accessLog: {text}\n"));
        config.unwrap_or_else(|error| panic!("{error}")).observe.access_log
    };
    assert_eq!(access("true"), AccessLog::default());
    assert_eq!(access("false"), AccessLog { enabled: false, ..AccessLog::default() });
    let some = access("{sample: 0.25, maxPerSecond: 50}");
    assert_eq!(some, AccessLog { enabled: true, sample: 0.25, max_per_second: 50 });
    assert_eq!(access("{sample: 0}").sample, 0.0);
}
