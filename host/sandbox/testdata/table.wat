;; A guest that changes its table, so that its state can't be frozen.
;; Build: wat2wasm table.wat
(module
  (import "sluice_v1" "emit" (func $emit (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (table $t 4 funcref)
  (elem declare func $one)
  (global $runs (mut i32) (i32.const 48))
  (func $one (result i32) (i32.const 1))
  (func (export "_initialize")
    (table.set $t (i32.const 2) (ref.func $one))
    (global.set $runs (i32.add (global.get $runs) (i32.const 1))))
  (func (export "sluice_abi") (result i32) (i32.const 0x10000))
  (func (export "sluice_describe") (result i32) (i32.const 0))
  (func (export "sluice_configure") (result i32) (i32.const 0))
  ;; emits how often _initialize has run, which the table must show too
  (func (export "sluice_generate") (result i32)
    (drop (call_indirect $t (result i32) (i32.const 2)))
    (table.set $t (i32.const 3) (ref.func $one))
    (i32.store8 (i32.const 0) (global.get $runs))
    (global.set $runs (i32.add (global.get $runs) (i32.const 1)))
    (call $emit (i32.const 1) (i32.const 0) (i32.const 1))))
