//! A config file: it loads, or has problems, each with a place; and it loads the same way twice.

pub fn try_one(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match crate::config(text) {
        Ok(config) => {
            let again = crate::config(text).expect("loads again");
            assert_eq!(config.sha256, again.sha256);
            assert!(
                config
                    .outline
                    .changes_to(&again.outline)
                    .to_string()
                    .is_empty()
            );
        }
        Err(problems) => assert!(!problems.problems.is_empty()),
    }
}
