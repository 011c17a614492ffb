//! Connections that leave an enrolled pod.

use anyhow::ensure;
use culvert_tests::{Lab, SOON, scenario};

#[test]
fn client_sees_the_peer_that_it_asked_for() {
    scenario(|| {
        let lab = Lab::builder().standard().start()?;
        let (a1, b1) = (lab.pod("a1"), lab.pod("b1"));
        let server = b1.app(&["serve", "--listen", "[::]:80"])?;
        server.wait_for("listening", SOON)?;
        for to in [b1.at(80), b1.at6(80)] {
            let said = a1.run_app(&["talk", "--line", "--to", &to.to_string()], SOON)?.json()?;
            println!("{said}");
            ensure!(said["peer"] == to.to_string(), "{said}");
        }
        Ok(())
    });
}
