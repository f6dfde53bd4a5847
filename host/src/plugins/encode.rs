//! From what a file holds to a component: a core module with its world embedded becomes one here, so that an author needs
//! nothing but cargo.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use wasmparser::Parser;
use wit_component::ComponentEncoder;

/// The largest file that is looked at, in bytes: interpreters of other languages take some 20 MiB.
pub(crate) const FILE_BYTES_MAX: usize = 64 << 20;
/// How every WebAssembly binary begins.
const MAGIC: &[u8] = b"\0asm";
/// The version and layer of a core module; a component has others.
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];

/// The component that `bytes` is, or holds.
///
/// # Errors
/// Why it can't be made one.
pub(super) fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes, may have {FILE_BYTES_MAX}", bytes.len()));
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err("it is no WebAssembly file".into());
    };
    if !rest.starts_with(CORE_MODULE) {
        return Ok(Cow::Borrowed(bytes));
    }
    // A file that is still being copied is cut off, as a rule.
    if let Some(Err(error)) = Parser::new(0).parse_all(bytes).find(Result::is_err) {
        return Err(format!("it is cut off or damaged: {error}"));
    }
    // The encoder is made for what compilers write, and what else it meets may well make it panic.
    let encoded = catch_unwind(AssertUnwindSafe(|| {
        ComponentEncoder::default()
            .validate(true)
            .module(bytes)
            .and_then(ComponentEncoder::encode)
    }));
    match encoded {
        Ok(Ok(component)) => Ok(Cow::Owned(component)),
        Ok(Err(error)) => Err(format!("it is a core module that makes no component: {error:#}")),
        Err(_) => Err("it is a core module that makes no component: the encoder failed on it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_taken_as_it_is() {
        let bytes = wat::parse_str("(component)").expect("a component");
        assert!(matches!(component(&bytes), Ok(Cow::Borrowed(same)) if same == bytes));
    }

    #[test]
    fn a_core_module_that_is_no_guest_is_refused_with_the_reason() {
        let wasi =
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#;
        let reason = component(&wat::parse_str(wasi).expect("a module")).expect_err("it wants to write");
        assert!(
            reason.starts_with("it is a core module that makes no component: ")
                && reason.contains("wasi_snapshot_preview1"),
            "{reason}"
        );
        let mut cut = wat::parse_str("(module (func))").expect("a module");
        cut.pop();
        let reason = component(&cut).expect_err("something is missing");
        assert!(reason.starts_with("it is cut off or damaged: "), "{reason}");
        assert_eq!(component(b"(component)"), Err("it is no WebAssembly file".into()));
    }

    #[test]
    fn damaged_core_modules_are_refused_and_nothing_panics() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let whole = wat::parse_str(
            r#"(module (@custom "component-type" "\00asm\0d\00\01\00") (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable))"#,
        )
        .expect("a module");
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..2000 {
            let mut damaged = whole.clone();
            for _ in 0..3 {
                let at = rng.random_range(8..damaged.len());
                damaged[at] = rng.random();
            }
            // Whatever comes of it comes as a value.
            drop(component(&damaged));
        }
    }

    #[test]
    fn an_overlarge_file_is_not_even_looked_at() {
        let reason = component(&vec![0; FILE_BYTES_MAX + 1]).expect_err("too large");
        assert_eq!(reason, "it has 67108865 bytes, may have 67108864");
    }
}
