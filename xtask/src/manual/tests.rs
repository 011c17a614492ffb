//! Marks, and what counts as printed.

use super::script::missing;
use super::{MANUALS, steps};
use crate::paths;
use std::fs;
use std::time::Duration;

const MANUAL: &str = "\
# A manual

<!-- run -->
```sh
echo one
echo 'two  words'
```

<!-- prints -->
```text
one
two …
```

```yaml
a: 1
```

<!-- not run: takes a day -->
```sh
sleep 1d
```

<!-- a comment of another kind -->

<!-- run helm within 300s -->
```sh
true
```

<!-- run last -->
```sh
false
```
";

#[test]
fn marked_commands_are_found_in_order() {
    let steps = steps("m.md", MANUAL).unwrap();
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[0].place, "m.md:4");
    assert_eq!(steps[0].script, "echo one\necho 'two  words'\n");
    assert_eq!(steps[0].prints, ["one", "two …"]);
    assert_eq!((&steps[0].sequence, steps[0].limit), (&None, Duration::from_mins(1)));
    assert_eq!(steps[1].sequence.as_deref(), Some("helm"));
    assert_eq!(steps[1].limit, Duration::from_mins(5));
    assert_eq!((&steps[2].sequence, steps[2].last), (&None, true));
    assert!(!steps[0].last && !steps[1].last);
}

#[test]
fn commands_without_a_fitting_mark_are_refused_with_their_place() {
    let cases = [
        ("```sh\ntrue\n```\n", "m.md:1"),
        ("<!-- run -->\n\n```sh\ntrue\n```\n", "m.md:2"),
        ("<!-- run -->\n```yaml\na: 1\n```\n", "m.md:2"),
        ("<!-- prints -->\n```text\na\n```\n", "m.md:2"),
        ("<!-- not run: -->\n```sh\ntrue\n```\n", "m.md:1"),
        ("<!-- run within 5m -->\n```sh\ntrue\n```\n", "m.md:1"),
        ("<!-- run a b -->\n```sh\ntrue\n```\n", "m.md:1"),
    ];
    for (text, place) in cases {
        let error = format!("{:#}", steps("m.md", text).unwrap_err());
        assert!(error.starts_with(place), "{text}: {error}");
    }
}

#[test]
fn script_is_run_and_what_it_prints_is_compared() {
    let mut step = steps("m.md", MANUAL).unwrap().remove(0);
    assert_eq!(step.run(&[]).unwrap(), "one\ntwo  words\n");
    step.prints = vec!["three".to_owned()];
    assert!(format!("{:#}", step.run(&[]).unwrap_err()).contains("three"));
    step.prints.clear();
    step.script = "echo \"$WHAT\"; false; echo never".to_owned();
    let error = format!("{:#}", step.run(&[("WHAT", "loud")]).unwrap_err());
    assert!(error.contains("m.md:4") && error.contains("loud"), "{error}");
    step.script = "sleep 60".to_owned();
    step.limit = Duration::from_millis(100);
    assert!(step.run(&[]).is_err());
}

#[test]
fn printed_lines_are_looked_for_in_order_with_gaps_and_wider_columns() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let printed = "NAME      READY   AGE\nagent-x   1/1     5s\nca-y      2/2     9s\n";
    for expected in
        ["NAME READY AGE", "agent-… 1/1 …", "ca-…\n", "NAME …\n\nca-… 2/2 9s", "… 1/1 …"]
    {
        assert_eq!(missing(&lines(expected), printed), None, "{expected}");
    }
    for expected in ["NAME", "ca-… 2/2 9s\nagent-… 1/1 5s", "agent-… 2/2 …", "… 1/1", "ca-…9s…8s"]
    {
        assert!(missing(&lines(expected), printed).is_some(), "{expected}");
    }
}

#[test]
fn every_command_of_the_manuals_has_a_mark() {
    for manual in MANUALS {
        let Ok(text) = fs::read_to_string(paths::root().join(manual)) else {
            panic!("{manual} is gone; take it off the list");
        };
        assert!(!steps(manual, &text).unwrap().is_empty(), "{manual}");
    }
}
