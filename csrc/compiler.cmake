# Which compilers build csrc, told before they fail at an option or a name that they don't know.
set(oldest_gcc 11) # it knows AMX's names, x86-64-v4 and the AVX-512 types of BF16
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS oldest_gcc)
  message(FATAL_ERROR "GCC ${oldest_gcc} or later is needed, ${CMAKE_CXX_COMPILER} is GCC ${CMAKE_CXX_COMPILER_VERSION}: "
                      "install a newer one (on Debian and Ubuntu: apt install g++-${oldest_gcc}) "
                      "and name it by CXX=g++-${oldest_gcc}")
endif()
