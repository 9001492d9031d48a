# Warnings that are errors in our own code, with the flags all of it shares.
function(nanochat_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wno-unknown-pragmas -ffp-contract=off>)
endfunction()
