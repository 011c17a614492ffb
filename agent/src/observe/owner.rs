//! Which workload a pod belongs to, told by what controllers write on it.

use std::collections::BTreeMap;

/// Letters that a controller adds to the name of a pod it makes.
const SUFFIX: usize = 5;

/// The name of the workload that the pod `name` is of: its Deployment, StatefulSet, DaemonSet,
/// Job or CronJob, as Istio's `source_workload` has it. Where the labels do not say, the pod's own.
///
/// Told from labels alone, because pods are many and their owners would be as many more objects
/// to watch.
pub fn workload_name<'a>(name: &'a str, labels: &'a BTreeMap<String, String>) -> &'a str {
    let label = |key: &str| labels.get(key).map(String::as_str);
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        return cron_job(job);
    }
    if let Some(hash) = label("pod-template-hash") {
        return replica_set(name, hash).unwrap_or(name);
    }
    if label("statefulset.kubernetes.io/pod-name") == Some(name) {
        return before_number(name).unwrap_or(name);
    }
    if label("pod-template-generation").is_some() {
        return before_suffix(name).unwrap_or(name);
    }
    name
}

/// `web` of `web-6d4b75cb6d-x7k2p`, where the middle is the label.
fn replica_set<'a>(name: &'a str, hash: &str) -> Option<&'a str> {
    before_suffix(name)?.strip_suffix(hash)?.strip_suffix('-').filter(|rest| !rest.is_empty())
}

fn before_suffix(name: &str) -> Option<&str> {
    let (before, suffix) = name.rsplit_once('-')?;
    (suffix.len() == SUFFIX && !before.is_empty()).then_some(before)
}

fn before_number(name: &str) -> Option<&str> {
    let (before, number) = name.rsplit_once('-')?;
    (is_number(number) && !before.is_empty()).then_some(before)
}

/// A CronJob names its Jobs by the minute: `backup` of `backup-28391040`.
fn cron_job(job: &str) -> &str {
    match job.rsplit_once('-') {
        Some((before, minute))
            if (8..=10).contains(&minute.len()) && is_number(minute) && !before.is_empty() =>
        {
            before
        }
        _ => job,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_told_by_their_labels() {
        for (name, key, value, expected) in [
            ("web-6d4b75cb6d-x7k2p", "pod-template-hash", "6d4b75cb6d", "web"),
            ("web-x7k2p", "pod-template-hash", "6d4b75cb6d", "web-x7k2p"),
            ("-6d4b75cb6d-x7k2p", "pod-template-hash", "6d4b75cb6d", "-6d4b75cb6d-x7k2p"),
            ("db-12", "statefulset.kubernetes.io/pod-name", "db-12", "db"),
            ("db-12", "statefulset.kubernetes.io/pod-name", "db-13", "db-12"),
            ("log-agent-zq4vd", "pod-template-generation", "3", "log-agent"),
            ("backup-28391040-abcde", "job-name", "backup-28391040", "backup"),
            ("load-abcde", "batch.kubernetes.io/job-name", "load", "load"),
            ("a1", "app", "frontend", "a1"),
        ] {
            let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(workload_name(name, &labels), expected, "{name} with {key}={value}");
        }
    }
}
