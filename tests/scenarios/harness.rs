//! The lab itself, without a mesh: what the other scenarios stand on.

use anyhow::{Context, ensure};
use culvert_tests::{Lab, NodeId, PodSpec, SOON, scenario, sweep};

#[test]
fn pods_reach_each_other_without_a_mesh() {
    scenario(|| {
        let lab = Lab::builder().standard().without_agents().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let server = b1.app(&["serve", "--listen", "[::]:80"])?;
        server.wait_for("listening", SOON)?;
        for to in [b1.at(80), b1.at6(80)] {
            let said = a1.run_app(&["talk", "--line", "--to", &to.to_string()], SOON)?.json()?;
            ensure!(said["peer"] == to.to_string(), "the client sees another peer: {said}");
            let saw = said["saw"]["peer"].as_str().context("the server tells its peer")?;
            ensure!(
                saw.contains(&a1.v4().to_string()) || saw.contains(&a1.v6().to_string()),
                "the server sees another source: {said}"
            );
        }
        Ok(())
    });
}

#[test]
fn streams_of_the_test_programs_are_whole() {
    scenario(|| {
        let lab = Lab::builder().standard().without_agents().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let to = b1.at(81).to_string();
        let exchange = b1.app(&["exchange", "--listen", &to, "--bytes", "10000000"])?;
        exchange.wait_for("listening", SOON)?;
        let said = a1
            .run_app(
                &["transfer", "--to", &to, "--bytes", "10000000", "--expect", "10000000"],
                SOON,
            )?
            .json()?;
        ensure!(said["matches"] == true && said["received"] == 10_000_000, "{said}");
        let line = exchange.wait_for("\"bytes\":10000000", SOON)?;
        ensure!(line.contains("\"matches\":true") && line.contains("\"end\":\"fin\""), "{line}");

        let echo = b1.app(&["echo", "--listen", "0.0.0.0:82"])?;
        echo.wait_for("listening", SOON)?;
        let to = b1.at(82).to_string();
        a1.run_app(&["half-close", "--to", &to, "--bytes", "3000000"], SOON)?.ok()?;
        let short = a1.run_app(&["short", "--to", &to, "--count", "200"], SOON)?.json()?;
        ensure!(short["ok"] == 200, "{short}");
        let hold = a1.app(&["hold", "--to", &to, "--count", "50"])?;
        hold.wait_for("\"held\":50", SOON)?;
        hold.close_stdin();
        hold.wait(SOON)?.ok()?;
        let refused = a1.run_app(&["talk", "--to", &b1.at(9).to_string()], SOON)?;
        ensure!(refused.stdout.contains("ConnectionRefused"), "{}", refused.stdout);
        Ok(())
    });
}

#[test]
fn nothing_is_left_of_a_lab() {
    scenario(|| {
        let mut lab =
            Lab::builder().pod(PodSpec::new("a1", NodeId::Node1)).without_agents().start()?;
        lab.add_pod(PodSpec::new("late", NodeId::Node2))?;
        let idle = lab.pod("late").spawn(&["sleep", "1000"])?;
        let inside = lab.pod("late").run(&["cat", "/proc/self/cgroup"], SOON)?.ok()?;
        ensure!(inside.contains(&format!("/culvert-lab-{}/node2/pods/late", lab.id())), "{inside}");
        let workloads = std::fs::read_to_string(lab.directory().join("workloads.yaml"))?;
        ensure!(workloads.contains("name: late"), "{workloads}");
        lab.remove_pods(&["late"], |_| Ok(()))?;
        idle.wait(SOON)?;
        let (id, pid) = (lab.id().to_owned(), idle.pid());
        drop(lab);
        ensure!(!sweep::exists(&id), "its files are still there");
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a program lives on");
        let namespaces = std::fs::read_dir("/run/netns")?.flatten();
        for namespace in namespaces {
            let name = namespace.file_name();
            ensure!(!name.to_string_lossy().starts_with(&format!("cv-{id}-")), "{name:?} is left");
        }
        Ok(())
    });
}
