//! A file is best under 300 lines and split by 500, its tests apart.

use super::Source;

const BEST: usize = 300;
const MOST: usize = 500;

/// Files over the limit; those that come near are told on the way.
pub(super) fn too_long(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        let tests = source.path.ends_with("tests.rs") || source.path.starts_with("tests/scenarios");
        let lines =
            source.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > MOST && !tests {
            faults.push(format!("{}: {lines} lines, at most {MOST}", source.path.display()));
        } else if lines > BEST && !tests {
            eprintln!("    {}: {lines} lines, better under {BEST}", source.path.display());
        }
    }
    faults
}
