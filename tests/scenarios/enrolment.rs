//! Pods that come and go while the agents run.

use anyhow::ensure;
use culvert_tests::{Lab, NodeId, PodSpec, SOON, scenario, until};

#[test]
fn pod_added_while_running_is_enrolled_and_let_go() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        lab.add_pod(PodSpec::new("late", NodeId::Node2))?;
        lab.wait_enrolled()?;
        let server = lab.pod("late").app(&["serve", "--listen", "[::]:80"])?;
        server.wait_for("listening", SOON)?;
        let to = lab.pod("late").at(80).to_string();
        let talk = ["talk", "--line", "--to", &to];
        let said = lab.pod("a1").run_app(&talk, SOON)?.json()?;
        ensure!(said["echoed"] == true, "{said}");
        // STRICT holds for it at once: a pod that is not enrolled is refused.
        let refused = lab.pod("x1").run_app(&talk, SOON)?;
        ensure!(!refused.status.success(), "{}", refused.stdout);
        lab.set_enrolled("late", false)?;
        lab.wait_enrolled()?;
        let said = lab.pod("x1").run_app(&talk, SOON)?.json()?;
        ensure!(said["echoed"] == true, "{said}");
        lab.remove_pods(&["late"], Lab::wait_enrolled)?;
        Ok(())
    });
}

#[test]
fn pod_made_anew_under_the_same_path_is_captured() {
    scenario(|| {
        let mut lab = Lab::builder().standard().strict().start()?;
        lab.remake_pod("b1")?;
        let server = lab.pod("b1").app(&["serve", "--listen", "[::]:80"])?;
        server.wait_for("listening", SOON)?;
        let to = lab.pod("b1").at(80).to_string();
        let talk = ["talk", "--line", "--to", &to];
        until("b1 to refuse plaintext again", SOON, || {
            let said = lab.pod("x1").run_app(&talk, SOON).ok()?;
            (!said.status.success()).then_some(())
        })?;
        let said = lab.pod("a1").run_app(&talk, SOON)?.json()?;
        ensure!(said["echoed"] == true, "{said}");
        Ok(())
    });
}
