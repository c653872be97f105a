//! A configuration file in several parts, because a ConfigMap holds at most 1 MiB.
//!
//! The text is cut at line ends. The first part begins with a line such as `parts: {count: 3, hash: 9f86...}`, which is no field of the
//! configuration, so a gateway that does not know parts rejects the file. Part N has the name of the file and the suffix `.N`. A kubelet may
//! refresh the parts one after the other, so the hash of the whole text tells whether they belong together.

use std::path::{Path, PathBuf};

use super::{ConfigError, read};
use crate::status::config_hash;

/// Maximum number of parts.
pub const MAX_PARTS: usize = 16;

/// The longest header.
const MAX_HEADER_BYTES: usize = 128;

/// Cuts `text` into parts of at most `max_bytes`, the first with the header. A text that fits is one part without a header. `None` if it needs
/// more than [`MAX_PARTS`] parts, or has a line that is longer than a part.
#[must_use]
pub fn split(text: &str, max_bytes: usize) -> Option<Vec<String>> {
    if text.len() <= max_bytes {
        return Some(vec![text.to_owned()]);
    }
    let max_bytes = max_bytes.checked_sub(MAX_HEADER_BYTES)?;
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if line.len() > max_bytes {
            return None;
        }
        let fits = parts
            .last()
            .is_some_and(|part| part.len().saturating_add(line.len()) <= max_bytes);
        if !fits {
            parts.push(String::new());
        }
        parts.last_mut()?.push_str(line);
    }
    if parts.len() > MAX_PARTS {
        return None;
    }
    let header = format!("parts: {{count: {}, hash: {}}}\n", parts.len(), config_hash(text));
    parts.first_mut()?.insert_str(0, &header);
    Some(parts)
}

/// The name of a part of the file `name`: the first one has that name itself.
#[must_use]
pub fn part_name(name: &str, index: usize) -> String {
    match index {
        0 => name.to_owned(),
        index => format!("{name}.{index}"),
    }
}

/// Reads `file` and, if it begins with a header, its other parts, and returns the whole text.
///
/// # Errors
/// When a part cannot be read, or the parts do not belong together.
pub fn read_parts(file: &Path) -> Result<String, ConfigError> {
    let first = read(file)?;
    let Some((count, hash, rest)) = header(&first) else {
        return Ok(first);
    };
    let mut whole = rest.to_owned();
    for index in 1..count {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{index}"));
        whole.push_str(&read(&PathBuf::from(name))?);
    }
    if config_hash(&whole) != hash {
        let message =
            "the parts of this file do not belong together; some of them may not have been replaced yet";
        return Err(ConfigError::invalid(file, &first, "parts", message));
    }
    Ok(whole)
}

/// The number of parts, the hash of the whole text, and the text after the header.
fn header(text: &str) -> Option<(usize, &str, &str)> {
    let (line, rest) = text.strip_prefix("parts: {count: ")?.split_once("}\n")?;
    let (count, hash) = line.split_once(", hash: ")?;
    let count = count.parse().ok().filter(|count| *count <= MAX_PARTS)?;
    Some((count, hash, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HotConfig;

    fn text(backends: usize) -> String {
        let backend = |number| format!("- name: backend-{number}\n  url: http://ü-{number}\n");
        format!("backends:\n{}", (0..backends).map(backend).collect::<String>())
    }

    /// A directory with the parts, and the path of the first one.
    fn written(parts: &[String]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        for (index, part) in parts.iter().enumerate() {
            std::fs::write(directory.path().join(part_name("hot.yaml", index)), part).unwrap();
        }
        let file = directory.path().join("hot.yaml");
        (directory, file)
    }

    #[test]
    fn parts_are_joined_to_the_same_text() {
        let whole = text(100);
        let parts = split(&whole, 1000).unwrap();
        assert!(parts.len() > 3, "{}", parts.len());
        assert!(parts.iter().all(|part| part.len() <= 1000));
        let (_directory, file) = written(&parts);
        assert_eq!(read_parts(&file).unwrap(), whole);
    }

    #[test]
    fn text_that_fits_is_one_plain_part() {
        let whole = text(3);
        assert_eq!(split(&whole, whole.len()), Some(vec![whole.clone()]));
        let (_directory, file) = written(std::slice::from_ref(&whole));
        assert_eq!(read_parts(&file).unwrap(), whole);
    }

    #[test]
    fn text_that_does_not_fit_is_not_split() {
        assert_eq!(split(&text(1000), 1000), None);
        assert_eq!(split(&"x".repeat(2000), 1000), None);
    }

    // A kubelet may have replaced only one of two ConfigMaps, or none of those that are new.
    #[test]
    fn parts_of_different_versions_are_rejected() {
        let (old, new) = (split(&text(100), 1000).unwrap(), split(&text(101), 1000).unwrap());
        let mut mixed = new.clone();
        mixed.last_mut().unwrap().clone_from(old.last().unwrap());
        let (_directory, file) = written(&mixed);
        let error = read_parts(&file).unwrap_err().to_string();
        assert!(error.contains("do not belong together"), "{error}");
        let (_directory, file) = written(&new[..1]);
        let error = read_parts(&file).unwrap_err().to_string();
        assert!(
            error.contains("cannot read") && error.contains("hot.yaml.1"),
            "{error}"
        );
    }

    // A gateway that does not know parts must not take the first one for the whole.
    #[test]
    fn first_part_alone_is_no_configuration() {
        let parts = split(&text(100), 1000).unwrap();
        let error = HotConfig::parse(&parts[0], Path::new("hot.yaml")).unwrap_err();
        assert!(error.to_string().contains("parts"), "{error}");
    }
}
