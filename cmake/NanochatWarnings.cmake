# Warnings that are errors in our own code, with the flags all of it shares.
function(nanochat_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wno-unknown-pragmas -ffp-contract=off>)
endfunction()

# Loops over common/simd.h may fuse a multiply and an add, unlike the rest. -Wno-psabi: vectors are
# passed between inlined functions only, so how a call would pass them does not matter.
function(nanochat_vector_loops)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "-ffp-contract=fast;-Wno-psabi")
endfunction()
