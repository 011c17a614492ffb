//! Which pod a cgroup path names: the kubelet puts the pod's UID into it.

use super::PodUid;

/// The pods that a `/proc/PID/cgroup` names, each once. More than one is a contradiction.
///
/// One line a hierarchy, `ID:CONTROLLERS:PATH`. Only the leftmost pod part of a path counts: what
/// stands to the right of it was made inside of that pod, by whoever owns it, under any name.
pub fn pods(text: &str) -> Vec<PodUid> {
    let mut found: Vec<PodUid> = Vec::new();
    for line in text.lines() {
        let Some(path) = line.splitn(3, ':').nth(2) else { continue };
        if let Some(pod) = path.split('/').find_map(pod)
            && !found.contains(&pod)
        {
            found.push(pod);
        }
    }
    found
}

/// The pod that one part of a path names, in the kubelet's two ways to write it:
/// `pod<uid>` (cgroupfs) and `kubepods[-<class>]-pod<uid with _ for ->.slice` (systemd).
fn pod(part: &str) -> Option<PodUid> {
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            if !matches!(before, "kubepods" | "kubepods-burstable" | "kubepods-besteffort") {
                return None;
            }
            uid.replace('_', "-")
        }
        None => part.strip_prefix("pod")?.to_owned(),
    };
    uid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f7c2a5e-1b3d-4c6f-8a9b-0123456789ab";

    fn uids(text: &str) -> Vec<String> {
        pods(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_drivers_of_the_kubelet_are_read() {
        let underscored = UID.replace('-', "_");
        for path in [
            format!("/kubepods/burstable/pod{UID}/4f1a"),
            format!("/kubepods/pod{UID}"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{underscored}\
                 .slice/cri-containerd-4f1a.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{underscored}.slice/crio-4f1a.scope/container"),
            // As a reader in a cgroup namespace of its own sees it.
            format!("/../../pod{UID}/4f1a"),
        ] {
            assert_eq!(uids(&format!("0::{path}\n")), [UID], "{path}");
        }
        // A static pod's UID is a hash.
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(uids(&format!("0::/kubepods/pod{hash}/x\n")), [hash]);
    }

    #[test]
    fn what_a_pod_makes_inside_itself_does_not_count() {
        let forged = "ffffffff-ffff-ffff-ffff-ffffffffffff";
        assert_eq!(uids(&format!("0::/kubepods/pod{UID}/x/pod{forged}/y\n")), [UID]);
        assert_eq!(uids(&format!("0::/kubepods/pod{UID}/kubepods-pod{forged}.slice\n")), [UID]);
    }

    #[test]
    fn hierarchies_that_disagree_are_both_told() {
        let other = "ffffffff-ffff-ffff-ffff-ffffffffffff";
        let text =
            format!("2:memory:/kubepods/pod{UID}/a\n1:name=systemd:/kubepods/pod{other}/a\n");
        assert_eq!(uids(&text), [UID, other]);
        let text = format!("2:memory:/kubepods/pod{UID}/a\n0::/kubepods/pod{UID}/a\n0::/\n");
        assert_eq!(uids(&text), [UID]);
    }

    #[test]
    fn other_paths_name_no_pod() {
        for text in [
            "",
            "0::/",
            "0::/system.slice/sshd.service",
            "0::/kubepods/podinfo",
            "0::/kubepods/pod../x",
            "0::/user-pod0f7c2a5e_1b3d_4c6f_8a9b_0123456789ab.slice",
            "no colons",
            "0:podless",
        ] {
            assert!(uids(text).is_empty(), "{text}");
        }
    }
}
