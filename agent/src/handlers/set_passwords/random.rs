//! Passwords that nobody thought of.

use crate::handlers::Failure;
use crate::system::random_bytes;

/// Letters and digits that nobody takes for one another on a console.
const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789";
/// Characters of a password: more than a hundred bits.
const LENGTH: usize = 20;

/// A password with small letters, capitals and digits, which rules for passwords ask for.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn password() -> Result<String, Failure> {
    loop {
        let bytes: [u8; 8 * LENGTH] = random_bytes()?;
        // A byte beyond the last whole round of the alphabet would make its first letters more likely.
        let limit = 256 / ALPHABET.len() * ALPHABET.len();
        let fair = bytes.into_iter().map(usize::from).filter(|byte| *byte < limit);
        let password: String = fair.map(|byte| char::from(ALPHABET[byte % ALPHABET.len()])).take(LENGTH).collect();
        let has = |kind: fn(&char) -> bool| password.chars().any(|c| kind(&c));
        if password.len() == LENGTH
            && has(char::is_ascii_lowercase)
            && has(char::is_ascii_uppercase)
            && has(char::is_ascii_digit)
        {
            return Ok(password);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_of_every_kind_and_never_the_same() {
        let passwords: std::collections::BTreeSet<String> = (0..50).map(|_| password().unwrap()).collect();
        assert_eq!(passwords.len(), 50);
        for password in passwords {
            assert_eq!(password.len(), 20);
            assert!(password.chars().any(|c| c.is_ascii_digit()) && !password.contains(['0', 'O', 'l', '1', 'I']));
        }
    }
}
