# Finds nvcc, or not, and says which on one line. Each CUDA source gets the architectures it was written for:
#   PORTABLE  real code for sm_80 and sm_90, and PTX for the chips that come after
#   HOPPER    sm_90a only (wgmma, TMA): not forward compatible, chosen at run time
set(NANOCHAT_HAS_CUDA OFF)
if(NOT NANOCHAT_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES OFF)  # given per source file below
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(NANOCHAT_HAS_CUDA ON)
    message(STATUS "nanochat: CUDA kernels on (nvcc ${CMAKE_CUDA_COMPILER_VERSION})")
  elseif(NANOCHAT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "nanochat: NANOCHAT_CUDA=ON but nvcc was not found; set CUDACXX or put nvcc on PATH")
  endif()
endif()
if(NOT NANOCHAT_HAS_CUDA)
  message(STATUS "nanochat: CUDA kernels off (NANOCHAT_CUDA=${NANOCHAT_CUDA}, no nvcc in use)")
endif()

set(NANOCHAT_GENCODE_PORTABLE
  "-gencode=arch=compute_80,code=sm_80"
  "-gencode=arch=compute_90,code=sm_90"
  "-gencode=arch=compute_90,code=compute_90")
set(NANOCHAT_GENCODE_HOPPER "-gencode=arch=compute_90a,code=sm_90a")

# nanochat_add_cuda(target PORTABLE|HOPPER sources...)
function(nanochat_add_cuda target family)
  target_sources(${target} PRIVATE ${ARGN})
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS
    "${NANOCHAT_GENCODE_${family}};-Xptxas;-warn-spills;--expt-relaxed-constexpr")
endfunction()
